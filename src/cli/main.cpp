// megabyte: trains, scores, generates with and ships byte models. Exit codes: 0, 1 for a failed
// run, 2 for bad usage.
#include <fmt/format.h>

#include <cstdio>
#include <exception>

#include "base/error.h"
#include "cli/commands.h"

int main(int argc, char** argv) {
  using namespace megabyte;
  CLI::App app{
      "MEGABYTE byte models: train, score and generate bytes of any kind, without a tokenizer.",
      "megabyte"};
  app.require_subcommand(1);
  app.set_version_flag("--version", MEGABYTE_VERSION);
  app.get_formatter()->column_width(34);
  cli::add_train(app);
  cli::add_eval(app);
  cli::add_generate(app);
  cli::add_dump(app);
  cli::add_info(app);
  cli::add_bench(app);
  try {
    // CLI11 would only say that a sub-command is missing.
    if (argc > 1 && argv[1][0] != '-' && app.get_subcommand_no_throw(argv[1]) == nullptr)
      throw UsageError(
          fmt::format("there is no command '{}'; 'megabyte --help' lists all", argv[1]));
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  } catch (const UsageError& e) {
    fmt::print(stderr, "megabyte: {}\n", e.what());
    return 2;
  } catch (const std::exception& e) {
    fmt::print(stderr, "megabyte: {}\n", e.what());
    return 1;
  }
}
