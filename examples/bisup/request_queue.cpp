// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include "request_queue.hpp"

#include <algorithm>
#include <utility>

namespace command {

using bisup::Result;
using bisup::text::Reply;

std::optional<std::string> PendingReply::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !text_.empty() || reply_; });
  if (text_.empty()) return {};
  return std::exchange(text_, {});
}

PendingReply::Whole PendingReply::whole() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return reply_.has_value(); });
  return {std::exchange(text_, {}), *reply_};
}

void PendingReply::leave() {
  const std::lock_guard lock(mutex_);
  left_ = true;
}

bool PendingReply::push(std::string_view piece) {
  const std::lock_guard lock(mutex_);
  text_ += piece;
  if (!piece.empty()) changed_.notify_all();
  return !left_;
}

void PendingReply::finish(Result<Reply> reply) {
  const std::lock_guard lock(mutex_);
  if (!reply_) reply_ = std::move(reply);
  changed_.notify_all();
}

RequestQueue::RequestQueue(bisup::text::ContinuousBatch batch, int together, int queue)
    : batch_(std::move(batch)),
      most_(static_cast<std::size_t>(together) + static_cast<std::size_t>(queue)),
      thread_([this] { work(); }) {}

RequestQueue::~RequestQueue() {
  close();
  thread_.join();
}

Result<std::shared_ptr<PendingReply>> RequestQueue::ask(std::vector<int> ids,
                                                        bisup::text::GenerateOptions options) {
  if (auto fits = batch_.check(ids); !fits) return fits.error();
  auto pending = std::make_shared<PendingReply>();
  const std::lock_guard lock(mutex_);
  std::erase_if(pending_, [](const auto& one) { return one.expired(); });
  if (pending_.size() >= most_) return std::shared_ptr<PendingReply>();
  pending_.push_back(pending);
  if (closed_) {
    pending->finish(ending());
    return pending;
  }
  asked_.push_back(
      {.ids = std::move(ids),
       .options = std::move(options),
       .emit = [this,
                pending](std::string_view piece) { return pending->push(piece) && !closed(); },
       .done = [pending](Result<Reply> reply) { pending->finish(std::move(reply)); }});
  asked_or_closed_.notify_one();
  return pending;
}

void RequestQueue::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  asked_or_closed_.notify_one();
}

bool RequestQueue::closed() const {
  const std::lock_guard lock(mutex_);
  return closed_;
}

std::exception_ptr RequestQueue::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void RequestQueue::answer_until_closed() {
  for (bool more = false; more || !closed();) {
    std::vector<bisup::text::Request> asked;
    {
      std::unique_lock lock(mutex_);
      asked_or_closed_.wait(lock, [&] { return more || closed_ || !asked_.empty(); });
      asked.swap(asked_);
    }
    for (auto& request : asked) batch_.add(std::move(request));
    more = batch_.step();
  }
}

void RequestQueue::work() {
  try {
    answer_until_closed();
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
    closed_ = true;
  }
  const std::lock_guard lock(mutex_);
  asked_.clear();
  for (const auto& pending : pending_) {
    if (const auto open = pending.lock()) open->finish(ending());
  }
}

}  // namespace command
