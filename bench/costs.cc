// Makes the calls that bench/costs counts, with ordinary files or with libgfapi (bench/io.h):
//   costs WHERE FILE OPERATION SIZE BYTES CALLS WARM_UP
// Does WARM_UP calls that do not count, says "ready", and waits for a line. Then come the CALLS,
// between two calls of getppid() by which they are found in a trace, and a line of JSON: what the
// kernel has counted for this process meanwhile. It ends at the second line.
//
// The operation "grant" is measured in time: in each of the files FILE0 to FILE<WARM_UP> it does
// the CALLS, and says how many microseconds each took, in all files but the first.
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bench/io.h"

namespace booster::bench {

void fail(const std::string& what) {
  std::fprintf(stderr, "costs: %s\n", what.c_str());
  ::_exit(1);
}

namespace {

struct Options {
  std::string file;
  std::string operation;
  size_t size = 0;     // of a call
  uint64_t bytes = 0;  // of the file: calls at the end of it begin again
  uint64_t calls = 0;
  uint64_t warm_up = 0;
};

/// The program's calls, one after the other.
class Caller {
 public:
  explicit Caller(const Options& options)
      : options_(options), buffer_(options.size, 'b'), slots_(options.bytes / options.size) {
    if (slots_ == 0) fail("the file is smaller than a call");
    file_ = open_file(options.file, how());
  }

  void call() {
    const std::string& operation = options_.operation;
    const uint64_t slot = number_ % slots_;
    const uint64_t offset = slot * options_.size;
    if (slot == 0 && number_ > 0 && (operation == "read" || operation == "write")) file_->rewind();
    ++number_;
    if (operation == "read") {
      file_->read(buffer_.data(), options_.size);
    } else if (operation == "pread") {
      file_->pread(buffer_.data(), options_.size, offset);
    } else if (operation == "pread-random") {
      file_->pread(buffer_.data(), options_.size, scattered(slot) * options_.size);
    } else if (operation == "write") {
      file_->write(buffer_.data(), options_.size);
    } else {
      file_->pwrite(buffer_.data(), options_.size, offset);
    }
  }

 private:
  Open how() const {
    const std::string& operation = options_.operation;
    if (operation == "read" || operation == "pread" || operation == "pread-random") {
      return Open::kRead;
    }
    if (operation == "write" || operation == "pwrite" || operation == "grant") {
      return Open::kReadWrite;
    }
    fail("no such operation: " + operation);
  }

  /// Each slot once, in no order that read-ahead could follow. `slots_` is a power of two.
  uint64_t scattered(uint64_t slot) const {
    constexpr uint64_t kOdd = 0x9e3779b97f4a7c15ULL;
    uint64_t x = (slot * kOdd) % slots_;
    x ^= x >> 5;
    return (x * kOdd) % slots_;
  }

  const Options& options_;
  std::vector<char> buffer_;
  uint64_t slots_;
  uint64_t number_ = 0;
  std::unique_ptr<File> file_;
};

double microseconds_now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

void wait_for_line() {
  char byte = 0;
  while (::read(0, &byte, 1) == 1 && byte != '\n') {
  }
}

void say(const std::string& line) {
  for (size_t done = 0; done < line.size();) {
    const ssize_t part = ::write(1, line.data() + done, line.size() - done);
    if (part <= 0) fail("cannot say");
    done += static_cast<size_t>(part);
  }
}

void run_grant(Options options) {
  const std::string prefix = options.file;
  std::string line;
  // The first file makes the process known to boosterd, and does not count.
  for (uint64_t i = 0; i <= options.warm_up; ++i) {
    options.file = prefix + std::to_string(i);
    Caller caller(options);
    std::string times;
    for (uint64_t j = 0; j < options.calls; ++j) {
      const double start = microseconds_now();
      caller.call();
      times += (j > 0 ? ", " : "") + std::to_string(microseconds_now() - start);
    }
    if (i > 0) line += (i > 1 ? ", [" : "[") + times + "]";
  }
  say("{\"us\": [" + line + "]}\n");
}

void run_counted(Caller& caller, uint64_t calls) {
  rusage before{}, after{};
  ::getrusage(RUSAGE_SELF, &before);
  const double start = microseconds_now();
  ::getppid();
  for (uint64_t i = 0; i < calls; ++i) caller.call();
  ::getppid();
  const double seconds = (microseconds_now() - start) / 1e6;
  ::getrusage(RUSAGE_SELF, &after);
  const auto grown = [&](auto field) { return std::to_string(after.*field - before.*field); };
  say("{\"seconds\": " + std::to_string(seconds) + ", \"faults\": " +
      std::to_string(after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt) +
      ", \"sleeps\": " + grown(&rusage::ru_nvcsw) +
      ", \"preempted\": " + grown(&rusage::ru_nivcsw) + "}\n");
}

int run(int argc, char** argv) {
  if (argc != 8) fail("usage: costs WHERE FILE OPERATION SIZE BYTES CALLS WARM_UP");
  Options options;
  options.file = argv[2];
  options.operation = argv[3];
  options.size = std::strtoull(argv[4], nullptr, 10);
  options.bytes = std::strtoull(argv[5], nullptr, 10);
  options.calls = std::strtoull(argv[6], nullptr, 10);
  options.warm_up = std::strtoull(argv[7], nullptr, 10);
  if (options.size == 0) fail("calls of no bytes");
  start_io(argv[1]);
  if (options.operation == "grant") {
    say("ready\n");
    wait_for_line();
    run_grant(options);
    wait_for_line();
    return 0;
  }
  Caller caller(options);
  for (uint64_t i = 0; i < options.warm_up; ++i) caller.call();
  say("ready\n");
  wait_for_line();
  run_counted(caller, options.calls);
  wait_for_line();
  return 0;
}

}  // namespace
}  // namespace booster::bench

int main(int argc, char** argv) {
  return booster::bench::run(argc, argv);
}
