// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// What does the user see while the command works? One line on a terminal, rewritten, with an
// estimate of the time left; nothing where stderr is a file. Ctrl-C is a flag that progress
// callbacks return.

#include <chrono>
#include <csignal>
#include <cstddef>
#include <string>

namespace command {

// Before the first file is opened. A standard stream that the caller closed would give its number
// to that file, and what is printed would go there: it becomes a stream that fails instead (stderr:
// that swallows). A limit on the size of files becomes an error of writing instead of a signal.
void settle_streams();

// One line on stderr; nothing happens if that cannot be written.
void complain(const std::string& what);

// After this Ctrl-C, SIGTERM and SIGHUP set a flag, down at first; a second one ends the process.
void catch_interrupts();
[[nodiscard]] bool interrupted();
// Back to what they do by default, for a time in which nothing can be left half-done.
void let_interrupts_end();

// "12.3 s", "2 min 05 s"
[[nodiscard]] std::string duration(double seconds);
// "98.4 MB"
[[nodiscard]] std::string size(double bytes);

class Clock {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// A progress callback of the library: meter(done, all) is false once the user wants to stop.
class Meter {
 public:
  explicit Meter(std::string what);
  Meter(const Meter&) = delete;
  Meter& operator=(const Meter&) = delete;
  ~Meter();  // wipes its line

  bool operator()(long done, long all);

 private:
  std::string what_;
  Clock clock_;
  bool is_terminal_;
  bool shown_ = false;
};

}  // namespace command
