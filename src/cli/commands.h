// One function a sub-command: it declares the options on a sub-app and what to run. Each lives in
// the file of its name: parse, call, print.
#pragma once

#include <CLI/CLI.hpp>

namespace megabyte::cli {

void add_train(CLI::App& app);
void add_eval(CLI::App& app);
void add_generate(CLI::App& app);
void add_compare(CLI::App& app);
void add_compress(CLI::App& app);
void add_decompress(CLI::App& app);
void add_verify(CLI::App& app);
void add_list(CLI::App& app);
void add_data(CLI::App& app);
void add_quantize(CLI::App& app);
void add_dump(CLI::App& app);
void add_info(CLI::App& app);
void add_bench(CLI::App& app);

}  // namespace megabyte::cli
