// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include "terminal.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <utility>

namespace command {

namespace {

// Threads other than the one that the signal found read it.
std::atomic<bool> stop = false;
static_assert(std::atomic<bool>::is_always_lock_free);

extern "C" void on_signal(int number) {
  stop = true;
  std::signal(number, SIG_DFL);
}

}  // namespace

void settle_streams() {
  // Each takes the lowest free number, its own. /dev/null opened the wrong way round fails.
  constexpr int flags[] = {O_WRONLY, O_RDONLY, O_WRONLY};
  for (int number = 0; number < 3; ++number) {
    if (::fcntl(number, F_GETFD) == -1) (void)::open("/dev/null", flags[number]);
  }
  std::signal(SIGXFSZ, SIG_IGN);
}

void complain(const std::string& what) {
  std::fputs(("bisup: " + what + "\n").c_str(), stderr);
}

void catch_interrupts() {
  stop = false;
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) std::signal(number, on_signal);
}

bool interrupted() {
  return stop;
}

void let_interrupts_end() {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) std::signal(number, SIG_DFL);
}

std::string duration(double seconds) {
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<long>(seconds + 0.5);
  return fmt::format("{} min {:02} s", whole / 60, whole % 60);
}

std::string size(double bytes) {
  if (bytes < 1e6) return fmt::format("{:.1f} kB", bytes / 1e3);
  return bytes < 1e9 ? fmt::format("{:.1f} MB", bytes / 1e6)
                     : fmt::format("{:.2f} GB", bytes / 1e9);
}

Meter::Meter(std::string what)
    : what_(std::move(what)), is_terminal_(::isatty(STDERR_FILENO) != 0) {}

Meter::~Meter() {
  if (shown_) fmt::print(stderr, "\r\033[K");
}

bool Meter::operator()(long done, long all) {
  if (is_terminal_ && done < all) {
    const double left =
        clock_.seconds() / static_cast<double>(done) * static_cast<double>(all - done);
    fmt::print(stderr, "\r{}: {} of {}, about {} left\033[K", what_, done, all, duration(left));
    std::fflush(stderr);
    shown_ = true;
  }
  return !interrupted();
}

}  // namespace command
