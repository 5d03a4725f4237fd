// megabyte: trains, scores, generates with, compresses with and ships byte models. Exit codes: 0, 1
// for a failed run, 2 for bad usage.
#include <fmt/format.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <string>

#include "base/error.h"
#include "cli/commands.h"

namespace {

// GNU's OpenMP lets idle threads spin for milliseconds before they sleep. Where another program
// wants the same cores they then take the time of the very thread that they wait for: beside one
// other busy process, two threads on two cores generate at a twentieth of one thread's speed and
// less. Some 30 microseconds span the gaps between our parallel regions. The library reads its
// settings when it is loaded, so the program starts once more (and goes on as it is where it
// cannot).
void start_with_brief_spinning(char** argv) {
  if (getenv("GOMP_SPINCOUNT") != nullptr || getenv("OMP_WAIT_POLICY") != nullptr) return;
  char path[PATH_MAX];  // its own name, so that the process keeps it
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  if (length < 0) return;
  path[length] = '\0';
  setenv("GOMP_SPINCOUNT", "3000", 1);
  execv(path, argv);
}

// CLI11 would only say that a sub-command is missing.
void check_commands(const CLI::App& app, int argc, char** argv) {
  const CLI::App* command = &app;
  std::string so_far = "megabyte";
  for (int i = 1; i < argc && argv[i][0] != '-' && command->get_require_subcommand_min() > 0; ++i) {
    const auto named =
        command->get_subcommands([&](const CLI::App* each) { return each->check_name(argv[i]); });
    if (named.empty())
      throw megabyte::UsageError(
          fmt::format("there is no command '{}'; '{} --help' lists all", argv[i], so_far));
    command = named.front();
    so_far += fmt::format(" {}", argv[i]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  using namespace megabyte;
  start_with_brief_spinning(argv);
  CLI::App app{
      "MEGABYTE byte models: train, score and generate bytes of any kind, without a tokenizer.",
      "megabyte"};
  app.require_subcommand(1);
  app.set_version_flag("--version", MEGABYTE_VERSION);
  app.get_formatter()->column_width(34);
  cli::add_train(app);
  cli::add_eval(app);
  cli::add_generate(app);
  cli::add_compare(app);
  cli::add_compress(app);
  cli::add_decompress(app);
  cli::add_verify(app);
  cli::add_list(app);
  cli::add_data(app);
  cli::add_quantize(app);
  cli::add_dump(app);
  cli::add_info(app);
  cli::add_bench(app);
  try {
    check_commands(app, argc, argv);
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
