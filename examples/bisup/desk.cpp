// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include "desk.hpp"

#include <algorithm>
#include <utility>

namespace command {

using bisup::Result;
using bisup::text::Reply;

std::optional<std::string> Ticket::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !text_.empty() || reply_; });
  if (text_.empty()) return {};
  return std::exchange(text_, {});
}

Ticket::Whole Ticket::whole() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return reply_.has_value(); });
  return {std::exchange(text_, {}), *reply_};
}

void Ticket::leave() {
  const std::lock_guard lock(mutex_);
  left_ = true;
}

bool Ticket::push(std::string_view piece) {
  const std::lock_guard lock(mutex_);
  text_ += piece;
  if (!piece.empty()) changed_.notify_all();
  return !left_;
}

void Ticket::finish(Result<Reply> reply) {
  const std::lock_guard lock(mutex_);
  if (!reply_) reply_ = std::move(reply);
  changed_.notify_all();
}

Desk::Desk(bisup::text::Answers answers, int together, int queue)
    : answers_(std::move(answers)),
      most_(static_cast<std::size_t>(together) + static_cast<std::size_t>(queue)),
      thread_([this] { work(); }) {}

Desk::~Desk() {
  close();
  thread_.join();
}

Result<std::shared_ptr<Ticket>> Desk::ask(std::vector<int> ids,
                                          bisup::text::GenerateOptions options) {
  if (auto fits = answers_.check(ids); !fits) return fits.error();
  auto ticket = std::make_shared<Ticket>();
  const std::lock_guard lock(mutex_);
  std::erase_if(tickets_, [](const auto& one) { return one.expired(); });
  if (tickets_.size() >= most_) return std::shared_ptr<Ticket>();
  tickets_.push_back(ticket);
  if (closed_) {
    ticket->finish(ending());
    return ticket;
  }
  asked_.push_back(
      {.ids = std::move(ids),
       .options = std::move(options),
       .emit = [this, ticket](std::string_view piece) { return ticket->push(piece) && !closed(); },
       .done = [ticket](Result<Reply> reply) { ticket->finish(std::move(reply)); }});
  asked_or_closed_.notify_one();
  return ticket;
}

void Desk::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  asked_or_closed_.notify_one();
}

bool Desk::closed() const {
  const std::lock_guard lock(mutex_);
  return closed_;
}

std::exception_ptr Desk::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void Desk::answer_until_closed() {
  for (bool more = false; more || !closed();) {
    std::vector<bisup::text::Question> asked;
    {
      std::unique_lock lock(mutex_);
      asked_or_closed_.wait(lock, [&] { return more || closed_ || !asked_.empty(); });
      asked.swap(asked_);
    }
    for (auto& question : asked) answers_.ask(std::move(question));
    more = answers_.step();
  }
}

void Desk::work() {
  try {
    answer_until_closed();
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
    closed_ = true;
  }
  const std::lock_guard lock(mutex_);
  asked_.clear();
  for (const auto& ticket : tickets_) {
    if (const auto open = ticket.lock()) open->finish(ending());
  }
}

}  // namespace command
