// megabyte data: files that people have, to the raw bytes that models read, and back.
#include "cli/data.h"

#include "cli/commands.h"

namespace megabyte::cli {

void add_data(CLI::App& app) {
  CLI::App* data =
      app.add_subcommand("data", "turn images, audio and text into bytes for training, and back");
  data->require_subcommand(1);
  add_data_images(*data);
  add_data_audio(*data);
  add_data_text(*data);
  add_data_to_png(*data);
  add_data_to_wav(*data);
}

}  // namespace megabyte::cli
