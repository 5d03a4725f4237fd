// megabyte dump: logits, loss and gradients of one batch as a safetensors file, so that any other
// implementation can be compared.
#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/common.h"
#include "io/safetensors.h"
#include "model/files.h"
#include "model/hierarchy.h"

namespace megabyte::cli {
namespace {

struct DumpOptions {
  std::string model, input, out;
  int64_t batch = 1;
  bool gradients = false;
  DeviceOptions device;
};

// The rows of a file of `batch` rows of equal length.
std::vector<uint16_t> read_rows(const std::string& file, int64_t batch, const Config& config) {
  std::ifstream in(file, std::ios::binary);
  if (!in) fail("cannot read {}: check --input", file);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(in), {}};
  const auto size = static_cast<int64_t>(bytes.size());
  if (size == 0) fail("{} is empty: --input needs at least one byte a row", file);
  if (size % batch != 0)
    fail("{} has {} bytes, which do not divide into {} rows: change --batch", file, size, batch);
  if (size / batch > config.context())
    fail(
        "{} holds {} bytes a row, more than the model's context of {}: raise --batch or shorten "
        "the file",
        file, size / batch, config.context());
  std::vector<uint16_t> tokens(bytes.size());
  for (size_t i = 0; i < bytes.size(); ++i) {
    tokens[i] = static_cast<unsigned char>(bytes[i]);
    if (tokens[i] >= config.vocab_size)
      fail("{} has byte {} at {}, but the model knows only {} symbols", file, tokens[i], i,
           config.vocab_size);
  }
  return tokens;
}

void dump(const DumpOptions& options) {
  const auto backend = options.device.backend();
  const DType compute = options.device.compute(*backend, DType::f32);
  const auto model = load_model(options.model, *backend, compute, options.gradients);
  const std::vector<uint16_t> tokens = read_rows(options.input, options.batch, model->config());
  const int64_t length = static_cast<int64_t>(tokens.size()) / options.batch;
  const int64_t predicted = model->predicted(length);

  model->prepare({.batch = options.batch, .length = length, .training = options.gradients});
  backend->zero(model->total());
  model->load(tokens.data());
  model->forward();
  const double scale = 1.0 / static_cast<double>(options.batch * predicted);
  model->loss(scale);

  const DType master = master_dtype(compute);
  std::vector<double> logits;
  model->copy_logits(logits);
  double loss = 0;
  backend->to_host(&loss, model->total());
  SafetensorsWriter writer(options.out);
  writer.declare("logits", master, {options.batch, predicted, model->config().vocab_size});
  writer.declare("loss", DType::f64, {});
  if (options.gradients) {
    backend->zero(model->parameters().gradients());
    model->backward();
    for (const ParameterSpec& spec : model->parameters().specs())
      writer.declare("grad." + spec.name, master, spec.shape);
  }
  writer.write([&](const std::string& name, std::byte* to) {
    if (name == "loss") {
      *reinterpret_cast<double*>(to) = loss * scale;
    } else if (name == "logits") {
      for (size_t i = 0; i < logits.size(); ++i) {
        if (master == DType::f64)
          reinterpret_cast<double*>(to)[i] = logits[i];
        else
          reinterpret_cast<float*>(to)[i] = static_cast<float>(logits[i]);
      }
    } else {
      backend->to_host(to, model->parameters()[name.substr(5)].grad);
    }
  });
  fmt::print(stderr, "{}: {} rows of {} bytes, loss {:.6f} nats a byte, written to {}\n",
             options.input, options.batch, length, loss * scale, options.out);
}

}  // namespace

void add_dump(CLI::App& app) {
  auto options = std::make_shared<DumpOptions>();
  CLI::App* command =
      app.add_subcommand("dump", "write logits, loss and gradients, to compare implementations");
  command->add_option("--model", options->model, "folder of the model")->required();
  command
      ->add_option("--input", options->input,
                   "file of raw bytes: the batch's rows, one after another")
      ->required();
  command->add_option("--batch", options->batch, "rows in the file")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--out", options->out,
                   "safetensors file to write: logits (B, L', V), loss (nats a byte)")
      ->required();
  command->add_flag("--grads", options->gradients, "also grad.NAME for every tensor of the model");
  options->device.add_to(*command, "default f32");
  command->callback([options] { dump(*options); });
}

}  // namespace megabyte::cli
