// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do many clients share one model? A Desk takes their questions and lets one thread answer all
// of them together; each client holds a Ticket on which its answer arrives.

#include <bisup/text/answers.hpp>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace command {

class Ticket {
 public:
  // The client: what was said since it was asked last, waiting for it; nothing when the answer has
  // ended.
  [[nodiscard]] std::optional<std::string> next();
  // Waits for the end. A client that reads by next() finds no text left here.
  struct Whole {
    std::string text;
    bisup::Result<bisup::text::Reply> reply;
  };
  [[nodiscard]] Whole whole();
  // Nobody waits any more.
  void leave();

  // The desk. push: whether anybody waits.
  bool push(std::string_view piece);
  void finish(bisup::Result<bisup::text::Reply> reply);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
  std::optional<bisup::Result<bisup::text::Reply>> reply_;
  bool left_ = false;
};

class Desk {
 public:
  // queue: questions that may wait beside those that are answered.
  Desk(bisup::text::Answers answers, int together, int queue);
  Desk(const Desk&) = delete;
  Desk& operator=(const Desk&) = delete;
  ~Desk();

  // Nothing if too many wait. Errors: as of Answers::check.
  [[nodiscard]] bisup::Result<std::shared_ptr<Ticket>> ask(std::vector<int> ids,
                                                           bisup::text::GenerateOptions options);
  // Ends all answers as interrupted, and those that come later.
  void close();
  // Why it closed by itself, if it did.
  [[nodiscard]] std::exception_ptr failure() const;
  // What clients hear then.
  [[nodiscard]] static bisup::Error ending() {
    return {bisup::Errc::interrupted, "the server is ending"};
  }

 private:
  void work();
  [[nodiscard]] bool closed() const;
  void answer_until_closed();

  bisup::text::Answers answers_;  // of the thread, but for what never changes
  std::size_t most_;
  mutable std::mutex mutex_;
  std::condition_variable asked_or_closed_;
  std::vector<bisup::text::Question> asked_;
  std::vector<std::weak_ptr<Ticket>> tickets_;  // of answers that have not ended
  std::exception_ptr failure_;
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace command
