// The sub-commands of `megabyte data`, each declared in the file of its modality.
#pragma once

#include <CLI/CLI.hpp>

namespace megabyte::cli {

void add_data_images(CLI::App& app);
void add_data_audio(CLI::App& app);
void add_data_text(CLI::App& app);
void add_data_to_png(CLI::App& app);
void add_data_to_wav(CLI::App& app);

}  // namespace megabyte::cli
