// What long commands do about signals.
#pragma once

namespace megabyte::cli {

// From here on SIGINT and SIGTERM ask to stop: the step under way is finished and saved. A second
// signal ends the program at once.
void catch_stop_signals();
bool stop_requested();

// A file above the system's limit is an error of write(), with a message, and no signal.
void ignore_file_limit_signal();

}  // namespace megabyte::cli
