// Pieces of work that threads do side by side and that are taken in order.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace megabyte {

// Calls make_worker() once on each of `threads` threads for a worker, worker(i) for each i < count
// on one of them, and take(i, its result) on this thread in order of i. Threads do not run further
// ahead than twice their number. While this thread waits it calls tick() about ten times a second.
// An exception of any of these ends all (a worker notices before its next piece, or when it asks
// `stop`) and goes on from here.
template <class MakeWorker, class Take, class Tick>
void in_order(size_t count, int threads, std::atomic<bool>& stop, const MakeWorker& make_worker,
              const Take& take, const Tick& tick) {
  using Result = decltype(make_worker()(size_t{0}));
  std::mutex mutex;
  std::condition_variable changed;
  std::map<size_t, Result> done;
  std::exception_ptr failure;
  size_t next = 0, taken = 0;
  const auto give_up = [&] {
    const std::lock_guard lock(mutex);
    if (!failure) failure = std::current_exception();
    stop = true;
    changed.notify_all();
  };
  const auto work = [&] {
    try {
      auto worker = make_worker();
      while (true) {
        size_t i = 0;
        {
          std::unique_lock lock(mutex);
          changed.wait(lock, [&] {
            return stop || next == count || next < taken + 2 * static_cast<size_t>(threads);
          });
          if (stop || next == count) return;
          i = next++;
        }
        Result result = worker(i);
        const std::lock_guard lock(mutex);
        done.emplace(i, std::move(result));
        changed.notify_all();
      }
    } catch (...) {
      give_up();
    }
  };
  std::vector<std::thread> pool;
  try {
    for (int t = 0; t < threads; ++t) pool.emplace_back(work);
    while (taken < count) {
      std::unique_lock lock(mutex);
      changed.wait_for(lock, std::chrono::milliseconds(100),
                       [&] { return stop || done.contains(taken); });
      if (stop) break;
      const auto found = done.find(taken);
      if (found == done.end()) {
        lock.unlock();
        tick();
        continue;
      }
      auto piece = done.extract(found);
      lock.unlock();
      take(piece.key(), std::move(piece.mapped()));
      tick();
      lock.lock();
      ++taken;
      changed.notify_all();
    }
  } catch (...) {
    give_up();
  }
  for (std::thread& thread : pool) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace megabyte
