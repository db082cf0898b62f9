// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#pragma once
// Who does the work? One pool: every worker takes the tasks of its own share in order, as what lies
// side by side is read fastest by one core, and then those that others have not begun, so a core
// that another program slows down holds nobody else up. Workers spin for tens of microseconds and
// then sleep. Results never depend on the number of threads, because a task is computed by exactly
// one worker and tasks have fixed sizes.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include <bisup/core/contract.hpp>
#include <bisup/core/platform.hpp>

namespace bisup {

class ThreadPool {
 public:
  // Throws std::system_error where the system has not so many threads to give.
  explicit ThreadPool(int threads = available()) : threads_(threads) {
    BISUP_EXPECTS(threads >= 1);
    shares_ = std::vector<Share>(static_cast<std::size_t>(threads));
#if BISUP_EXCEPTIONS
    try {
      start_workers();
    } catch (...) {
      end_workers();  // those that did start: a thread that is destroyed unjoined ends the process
      throw;
    }
#else
    start_workers();
#endif
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    end_workers();
  }

  // The cores this process may use, which taskset or a container can make fewer than there are.
  [[nodiscard]] static int available() {
#if defined(__linux__)
    cpu_set_t mine;
    if (::sched_getaffinity(0, sizeof mine, &mine) == 0) return CPU_COUNT(&mine);
#endif
    const unsigned cores = std::thread::hardware_concurrency();
    return cores == 0 ? 1 : static_cast<int>(cores);
  }
  // The process-wide default, made on first use.
  [[nodiscard]] static ThreadPool& shared() {
    static ThreadPool pool;
    return pool;
  }

  [[nodiscard]] int threads() const noexcept {
    return threads_;
  }

  // Calls body(task, worker) for every task in 0 ... tasks - 1; worker is in 0 ... threads() - 1
  // and no two calls of one parallel_for with one worker overlap. Another thread that finds the
  // pool busy works alone, as worker 0: scratch indexed by worker belongs to one caller. Returns
  // when all are done. An exception of a body is rethrown here once the others have finished. A
  // call from inside a body runs on that thread alone.
  template <class Body>
  void parallel_for(int tasks, Body&& body) {
    if (tasks <= 0) return;
    if (threads_ == 1 || tasks == 1 || inside_ != nullptr || !busy_.try_lock()) {
      const int worker = inside_ == this ? worker_ : 0;
      for (int task = 0; task < tasks; ++task) body(task, worker);
      return;
    }
    const std::unique_lock owner(busy_, std::adopt_lock);
    using Function = std::remove_reference_t<Body>;
    call_ = [](void* f, int task, int worker) { (*static_cast<Function*>(f))(task, worker); };
    function_ = const_cast<void*>(static_cast<const void*>(std::addressof(body)));
    failure_ = nullptr;
    for (int i = 0, begin = 0; i < threads_; ++i) {
      Share& share = shares_[static_cast<std::size_t>(i)];
      share.next.store(begin, std::memory_order_relaxed);
      begin += (tasks - begin) / (threads_ - i);
      share.end = begin;
    }
    {
      const std::lock_guard lock(mutex_);
      const std::uint64_t call = state_.load(std::memory_order_relaxed) / call_unit + 1;
      state_.store(call * call_unit | open_bit, std::memory_order_release);
      if (sleeping_ > 0) wake_.notify_all();
    }
    claim(0);
    await_workers();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  static constexpr auto spin_time = std::chrono::microseconds(50);

  void start_workers() {
    for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { work(i); });
  }
  void end_workers() {
    {
      const std::lock_guard lock(mutex_);
      stopping_.store(true, std::memory_order_release);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  static void relax() noexcept {
#if BISUP_X86
    __builtin_ia32_pause();
#elif BISUP_ARM64 && defined(__GNUC__)
    asm volatile("yield");
#endif
  }

  template <class Condition>
  static bool spin_until(Condition&& condition) {
    const auto deadline = std::chrono::steady_clock::now() + spin_time;
    do {
      for (int i = 0; i < 64; ++i) {
        if (condition()) return true;
        relax();
      }
    } while (std::chrono::steady_clock::now() < deadline);
    return condition();
  }

  void claim(int worker) noexcept {
    inside_ = this, worker_ = worker;
    for (int i = 0; i < threads_; ++i) {
      Share& share = shares_[static_cast<std::size_t>((worker + i) % threads_)];
      for (int task; (task = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;)
        run(task, worker);
    }
    inside_ = nullptr, worker_ = 0;
  }

  void run(int task, int worker) noexcept {
#if BISUP_EXCEPTIONS
    try {
      call_(function_, task, worker);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
#else
    call_(function_, task, worker);
#endif
  }

  // Closes the call, so that a worker that has not even started (its core belongs to another
  // program) is not waited for, then waits for those that have.
  void await_workers() {
    state_.fetch_and(~open_bit, std::memory_order_acq_rel);
    const auto done = [this] {
      return (state_.load(std::memory_order_acquire) & active_mask) == 0;
    };
    if (spin_until(done)) return;
    std::unique_lock lock(mutex_);
    finished_.wait(lock, done);
  }

  void work(int worker) {
    std::uint64_t seen = 0;
    for (;;) {
      const auto called = [&] {
        return state_.load(std::memory_order_acquire) / call_unit != seen ||
               stopping_.load(std::memory_order_acquire);
      };
      if (!spin_until(called)) {
        std::unique_lock lock(mutex_);
        ++sleeping_;
        wake_.wait(lock, called);
        --sleeping_;
      }
      if (stopping_.load(std::memory_order_acquire)) return;
      std::uint64_t state = state_.load(std::memory_order_acquire);
      seen = state / call_unit;
      if (!(state & open_bit)) continue;
      if (!state_.compare_exchange_strong(state, state + 1, std::memory_order_acq_rel)) {
        seen = 0;  // another worker joined, or the call was closed: look again
        continue;
      }
      claim(worker);
      // The last to leave takes the lock, so the caller cannot miss the notification between its
      // check and its sleep.
      if ((state_.fetch_sub(1, std::memory_order_acq_rel) & active_mask) == 1) {
        const std::lock_guard lock(mutex_);
        finished_.notify_one();
      }
    }
  }

  // state_: number of the call | open | workers inside it
  static constexpr std::uint64_t active_mask = 0xffff, open_bit = 0x10000, call_unit = 0x20000;

  // Tasks next ... end - 1 that nobody has begun.
  struct alignas(64) Share {
    std::atomic<int> next = 0;
    int end = 0;
  };

  static inline thread_local ThreadPool* inside_ = nullptr;
  static inline thread_local int worker_ = 0;

  const int threads_;
  std::mutex busy_;  // held by the thread whose parallel_for is running
  std::mutex mutex_;
  std::condition_variable wake_, finished_;
  int sleeping_ = 0;
  std::atomic<bool> stopping_ = false;

  void (*call_)(void*, int, int) = nullptr;
  void* function_ = nullptr;
  std::exception_ptr failure_;
  std::vector<Share> shares_;  // of the workers
  alignas(64) std::atomic<std::uint64_t> state_ = 0;
  std::vector<std::thread> workers_;
};

}  // namespace bisup
