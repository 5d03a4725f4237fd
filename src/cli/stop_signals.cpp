#include "cli/stop_signals.h"

#include <csignal>

namespace megabyte::cli {
namespace {

volatile std::sig_atomic_t stop_signal = 0;

}  // namespace

void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = [](int signal) { stop_signal = signal; };
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool stop_requested() { return stop_signal != 0; }

void ignore_file_limit_signal() { std::signal(SIGXFSZ, SIG_IGN); }

}  // namespace megabyte::cli
