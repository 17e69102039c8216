// How a workload reaches its files: by the system calls of an ordinary program, or by libgfapi in
// the process itself. Each implementation is a program of its own, so that the first one links
// nothing that it does not need.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace booster::bench {

/// An open file. Every function ends the program with a message if it cannot do all of its work.
class File {
 public:
  virtual ~File() = default;
  /// At the file's own offset.
  virtual void read(void* buffer, size_t length) = 0;
  virtual void write(const void* buffer, size_t length) = 0;
  virtual void rewind() = 0;
  virtual void pread(void* buffer, size_t length, uint64_t offset) = 0;
  virtual void pwrite(const void* buffer, size_t length, uint64_t offset) = 0;
  virtual void data_sync() = 0;
  /// A POSIX lock on all of it, exclusive.
  virtual void lock() = 0;
  virtual void unlock() = 0;
};

enum class Open { kRead, kReadWrite, kCreate, kAppend };

/// Once in each process, before open_file. `where` says which volume, in the way of each program.
void start_io(const std::string& where);

/// `name` is relative to `where`.
std::unique_ptr<File> open_file(const std::string& name, Open how);

/// Prints one line to standard error and ends the process with status 1.
[[noreturn]] void fail(const std::string& what);

}  // namespace booster::bench
