#include "generate/generator.h"

#include "base/error.h"
#include "base/random.h"
#include "data/byte_dataset.h"

namespace megabyte {

std::vector<uint16_t> prompt_symbols(std::span<const uint8_t> prompt, const Config& config) {
  std::vector<uint16_t> symbols;
  if (ends_documents(config.vocab_size)) symbols.push_back(kEndOfDocument);
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] >= config.vocab_size)
      fail("the prompt has byte {} at {}, but the model knows only {} symbols", prompt[i], i,
           config.vocab_size);
    symbols.push_back(prompt[i]);
  }
  return symbols;
}

Generator::Generator(const Hierarchy& model, int64_t batch, const SamplingOptions& options)
    : backend_(model.backend()),
      options_(options),
      decoder_(model, batch,
               [this](int64_t i, const Tensor& logits, const Tensor& tokens) {
                 backend_.sample({.batch = tokens.size(),
                                  .vocab = logits.shape[1],
                                  .temperature = options_.temperature,
                                  .top_k = options_.top_k,
                                  .top_p = options_.top_p},
                                 logits, draws_.slice(i, 1).view({tokens.size()}), tokens);
               }),
      next_(static_cast<size_t>(batch)) {
  const Shape shape{decoder_.run_length(), batch};
  const DType master = master_dtype(model.compute());
  buffer_ = backend_.allocate(static_cast<size_t>(shape.size()) * size_of(master));
  draws_ = {buffer_.data(), master, shape};
}

void Generator::start(const std::vector<uint16_t>& prompt, uint64_t first) {
  std::vector<uint16_t> rows;
  for (int64_t b = 0; b < decoder_.batch(); ++b)
    rows.insert(rows.end(), prompt.begin(), prompt.end());
  decoder_.prompt(rows.data(), static_cast<int64_t>(prompt.size()));
  first_ = first;
  position_ = prompt.size();
  drawn_.clear();
  given_ = 0;
}

const std::vector<uint16_t>& Generator::next() {
  if (given_ == drawn_.size()) draw();
  std::copy_n(drawn_.begin() + static_cast<std::ptrdiff_t>(given_), next_.size(), next_.begin());
  given_ += next_.size();
  return next_;
}

void Generator::draw() {
  const Decoder::Run run = decoder_.next_run(backend_.asynchronous() ? decoder_.run_length() : 1);
  const auto upload = [&](auto type) {
    std::vector<decltype(type)> uniforms;
    for (int64_t i = 0; i < run.count; ++i, ++position_)
      for (int64_t b = 0; b < decoder_.batch(); ++b)
        uniforms.push_back(
            uniform(philox(options_.seed, first_ + static_cast<uint64_t>(b), position_)[0]));
    backend_.from_host(draws_.slice(run.first, run.count), uniforms.data());
  };
  if (draws_.dtype == DType::f64)
    upload(double{});
  else
    upload(float{});
  drawn_ = decoder_.draw(run);
  given_ = 0;
}

}  // namespace megabyte
