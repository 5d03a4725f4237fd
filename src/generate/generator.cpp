#include "generate/generator.h"

namespace megabyte {

Generator::Generator(const Hierarchy& model, int64_t batch, const SamplingOptions& options)
    : backend_(model.backend()),
      options_(options),
      decoder_(model, batch),
      buffer_(backend_.allocate(static_cast<size_t>(batch) * sizeof(uint16_t))),
      tokens_{buffer_.data(), DType::u16, {batch}},
      host_(static_cast<size_t>(batch)) {}

void Generator::start(const std::vector<uint16_t>& prompt, uint64_t first) {
  std::vector<uint16_t> rows;
  for (int64_t b = 0; b < decoder_.batch(); ++b)
    rows.insert(rows.end(), prompt.begin(), prompt.end());
  decoder_.prompt(rows.data(), static_cast<int64_t>(prompt.size()));
  first_ = first;
  position_ = prompt.size();
}

const std::vector<uint16_t>& Generator::next() {
  const Tensor& logits = decoder_.advance();
  const SampleShape shape{.batch = decoder_.batch(),
                          .vocab = logits.shape[1],
                          .temperature = options_.temperature,
                          .top_k = options_.top_k,
                          .top_p = options_.top_p,
                          .seed = options_.seed,
                          .position = position_++,
                          .first = first_};
  backend_.sample(shape, logits, tokens_);
  backend_.to_host(host_.data(), tokens_);
  decoder_.accept(tokens_);
  return host_;
}

}  // namespace megabyte
