// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// How do many clients share one model? A RequestQueue takes what they ask and lets one thread
// answer all of them together; each client holds a PendingReply on which its answer arrives.

#include <bisup/text/continuous_batch.hpp>
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

class PendingReply {
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

  // The queue. push: whether anybody waits.
  bool push(std::string_view piece);
  void finish(bisup::Result<bisup::text::Reply> reply);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
  std::optional<bisup::Result<bisup::text::Reply>> reply_;
  bool left_ = false;
};

class RequestQueue {
 public:
  // queue: requests that may wait beside those that are answered.
  RequestQueue(bisup::text::ContinuousBatch batch, int together, int queue);
  RequestQueue(const RequestQueue&) = delete;
  RequestQueue& operator=(const RequestQueue&) = delete;
  ~RequestQueue();

  // Nothing if too many wait. Errors: as of ContinuousBatch::check.
  [[nodiscard]] bisup::Result<std::shared_ptr<PendingReply>> ask(
      std::vector<int> ids, bisup::text::GenerateOptions options);
  // Ends all requests as interrupted, and those that come later.
  void close();
  // Why it closed by itself, if it did.
  [[nodiscard]] std::exception_ptr failure() const;
  // What clients are told then.
  [[nodiscard]] static bisup::Error ending() {
    return {bisup::Errc::interrupted, "the server is ending"};
  }

 private:
  void work();
  [[nodiscard]] bool closed() const;
  void answer_until_closed();

  bisup::text::ContinuousBatch batch_;  // of the thread, but for what never changes
  std::size_t most_;
  mutable std::mutex mutex_;
  std::condition_variable asked_or_closed_;
  std::vector<bisup::text::Request> asked_;
  std::vector<std::weak_ptr<PendingReply>> pending_;  // of requests that have not ended
  std::exception_ptr failure_;
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace command
