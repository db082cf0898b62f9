// Copyright the bisup authors
// SPDX-License-Identifier: Apache-2.0
#include <bisup/core/thread_pool.hpp>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <numeric>
#include <set>
#include <stdexcept>
#include <system_error>

#if defined(__linux__)
#include <sched.h>
#endif

#include <bisup_test.hpp>

namespace {

using namespace bisup;

TEST_CASE("every task runs exactly once, whatever the number of threads") {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (const int tasks : {0, 1, 2, 7, 64, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
      pool.parallel_for(tasks, [&](int task, int) { ++runs[static_cast<std::size_t>(task)]; });
      for (const auto& count : runs) REQUIRE(count == 1);
    }
  }
}

TEST_CASE("many short calls in a row lose nothing") {
  ThreadPool pool(3);
  std::atomic<int> sum = 0;
  for (int call = 0; call < 3000; ++call) {
    pool.parallel_for(4, [&](int, int) { sum.fetch_add(1, std::memory_order_relaxed); });
    REQUIRE(sum == 4 * (call + 1));
  }
}

TEST_CASE("workers wake again after they slept") {
  ThreadPool pool(2);
  std::atomic<int> sum = 0;
  for (int call = 0; call < 5; ++call) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // far beyond the spinning time
    pool.parallel_for(8, [&](int, int) { ++sum; });
  }
  CHECK(sum == 40);
}

TEST_CASE("a worker number belongs to one thread at a time") {
  ThreadPool pool(4);
  std::vector<std::atomic<bool>> busy(4);
  std::atomic<int> overlaps = 0, outside = 0;
  pool.parallel_for(2000, [&](int, int worker) {
    if (worker < 0 || worker >= 4) {
      ++outside;
      return;
    }
    auto& mine = busy[static_cast<std::size_t>(worker)];
    if (mine.exchange(true)) ++overlaps;
    mine = false;
  });
  CHECK(outside == 0);
  CHECK(overlaps == 0);
}

TEST_CASE("two tasks really run at the same time") {
  ThreadPool pool(2);
  std::atomic<int> waiting = 0;
  std::atomic<bool> met = false;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  pool.parallel_for(2, [&](int, int) {
    ++waiting;
    while (waiting < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    if (waiting == 2) met = true;
  });
  CHECK(met);
}

TEST_CASE("a worker that is held up keeps nothing but the task it has") {
  ThreadPool pool(2);
  for (int call = 0; call < 20; ++call) {
    std::atomic<int> others = 0;
    bool in_time = false;
    pool.parallel_for(8, [&](int task, int) {
      if (task != 4) {
        ++others;
        return;
      }
      // The first task of the second share waits for those behind it.
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
      while (others < 7 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
      in_time = others == 7;
    });
    REQUIRE(in_time);
  }
}

TEST_CASE("an exception arrives at the caller and the pool goes on") {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    std::atomic<int> after = 0;
    CHECK_THROWS_WITH(pool.parallel_for(50,
                                        [](int task, int) {
                                          if (task == 20) throw std::runtime_error("task 20");
                                        }),
                      "task 20");
    pool.parallel_for(50, [&](int, int) { ++after; });
    CHECK(after == 50);
  }
}

TEST_CASE("a call from inside a body runs on that thread") {
  ThreadPool pool(3), other(2);
  std::atomic<int> sum = 0, strangers = 0;
  pool.parallel_for(20, [&](int, int outer) {
    const auto me = std::this_thread::get_id();
    pool.parallel_for(10, [&](int, int inner) {
      if (std::this_thread::get_id() != me || inner != outer) ++strangers;
      ++sum;
    });
    other.parallel_for(10, [&](int, int) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));  // time for a stranger to join
      if (std::this_thread::get_id() != me) ++strangers;
      ++sum;
    });
  });
  CHECK(sum == 20 * 20);
  CHECK(strangers == 0);
}

TEST_CASE("callers from several threads share one pool") {
  ThreadPool pool(2);
  std::atomic<long> sum = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int call = 0; call < 200; ++call) {
        long mine = 0;
        std::vector<long> parts(16);
        pool.parallel_for(16,
                          [&](int task, int) { parts[static_cast<std::size_t>(task)] = task + 1; });
        for (const long part : parts) mine += part;
        sum += mine;
      }
    });
  }
  for (auto& caller : callers) caller.join();
  CHECK(sum == 4L * 200 * (16 * 17 / 2));
}

TEST_CASE("pools come and go, used or not") {
  for (int i = 0; i < 50; ++i) {
    ThreadPool pool(1 + i % 4);
    if (i % 2 == 0) continue;
    std::atomic<int> sum = 0;
    pool.parallel_for(5, [&](int, int) { ++sum; });
    REQUIRE(sum == 5);
  }
}

TEST_CASE("the default pool uses the cores this process may use") {
  CHECK(ThreadPool::available() >= 1);
  CHECK(ThreadPool::shared().threads() == ThreadPool::available());
  CHECK(&ThreadPool::shared() == &ThreadPool::shared());
  CHECK_THROWS_AS(ThreadPool(0), ContractViolation);
}

#if defined(__linux__)
TEST_CASE("a process kept to one core of many has one") {
  cpu_set_t before, one;
  REQUIRE(::sched_getaffinity(0, sizeof before, &before) == 0);
  CHECK(ThreadPool::available() == CPU_COUNT(&before));
  int core = 0;
  while (!CPU_ISSET(core, &before)) ++core;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  REQUIRE(::sched_setaffinity(0, sizeof one, &one) == 0);
  CHECK(ThreadPool::available() == 1);
  REQUIRE(::sched_setaffinity(0, sizeof before, &before) == 0);
}

// AddressSanitizer maps memory of its own for a thread and ends the process where it gets none.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BISUP_TEST_ASAN
#endif
#endif
#if !defined(BISUP_TEST_ASAN) && !defined(__SANITIZE_ADDRESS__)
TEST_CASE("threads that cannot be had are an exception and nothing worse") {
  // Address space for a few stacks of 8 MiB and no more; in a child, since the limit stays.
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const rlimit limit{std::size_t{1} << 29, std::size_t{1} << 29};
    ::setrlimit(RLIMIT_AS, &limit);
    int status = 1;
    try {
      const ThreadPool pool(4096);
    } catch (const std::system_error&) {
      status = 0;
    }
    ::_exit(status);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}
#endif
#endif

}  // namespace
