#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "preload/interpose.h"
#include "preload/stdio_tables.h"

namespace booster::preload {

namespace {

enum State : uint32_t { kUnknown, kHooking, kHooked, kUnhookable };
BOOSTER_AT_HAND constinit std::atomic<uint32_t> g_state{kUnknown};

/// What glibc 2.36's tables hold (struct _IO_jump_t in libioP.h): pointers, of which the entries
/// for files are found by their values.
constexpr size_t kEntries = 21;

using Read = ssize_t (*)(FILE*, void*, ssize_t);
using Write = ssize_t (*)(FILE*, const void*, ssize_t);
constinit Read g_read = nullptr;
constinit Write g_write = nullptr;

/// Streams that libc uses for itself are no cancellation points (_IO_FLAGS2_NOTCANCEL).
bool is_cancellable(const FILE* stream) {
  return (stream->_flags2 & 2) == 0;
}

ssize_t stream_read(FILE* stream, void* buffer, ssize_t length) {
  ssize_t result;
  if (transfer(Direction::kRead, stream->_fileno, buffer, static_cast<size_t>(length), kSequential,
               result, is_cancellable(stream))) {
    return result;
  }
  return g_read(stream, buffer, length);
}

/// All of it, or the stream has seen an error; moves the stream's idea of its offset along.
ssize_t stream_write(FILE* stream, const void* buffer, ssize_t length) {
  const auto* bytes = static_cast<const char*>(buffer);
  ssize_t done = 0;
  while (done < length) {
    ssize_t moved;
    if (!transfer(Direction::kWrite, stream->_fileno, bytes + done,
                  static_cast<size_t>(length - done), kSequential, moved, is_cancellable(stream))) {
      // It is not ours, or not any more: the rest is libc's.
      if (stream->_offset >= 0) stream->_offset += done;
      return done + g_write(stream, bytes + done, length - done);
    }
    if (moved < 0) {
      stream->_flags |= _IO_ERR_SEEN;
      break;
    }
    done += moved;
  }
  if (stream->_offset >= 0) stream->_offset += done;
  return done;
}

off64_t stream_seek(FILE* stream, off64_t offset, int whence) {
  return ::lseek64(stream->_fileno, offset, whence);
}
int stream_close(FILE* stream) {
  return close_number(stream->_fileno, false);  // nor is libc's a cancellation point
}
int stream_stat(FILE* stream, void* status) {
  return ::fstat64(stream->_fileno, static_cast<struct stat64*>(status));
}

struct Replacement {
  const char* name;  // of libc's function
  void* by;
  void* found = nullptr;
};

/// The place of `value` in the table, if there is exactly one.
void** place_of(void** table, void* value) {
  void** found = nullptr;
  for (size_t i = 0; i < kEntries; ++i) {
    if (table[i] != value) continue;
    if (found != nullptr) return nullptr;
    found = &table[i];
  }
  return found;
}

bool replace_all() {
  Replacement all[] = {{"_IO_file_read", reinterpret_cast<void*>(&stream_read)},
                       {"_IO_file_write", reinterpret_cast<void*>(&stream_write)},
                       {"_IO_file_seek", reinterpret_cast<void*>(&stream_seek)},
                       {"_IO_file_close", reinterpret_cast<void*>(&stream_close)},
                       {"_IO_file_stat", reinterpret_cast<void*>(&stream_stat)}};
  void** tables[] = {static_cast<void**>(dlsym(RTLD_DEFAULT, "_IO_file_jumps")),
                     static_cast<void**>(dlsym(RTLD_DEFAULT, "_IO_wfile_jumps"))};
  void** places[2][5];
  for (size_t t = 0; t < 2; ++t) {
    if (tables[t] == nullptr) return false;
    for (size_t i = 0; i < 5; ++i) {
      if (all[i].found == nullptr) all[i].found = dlsym(RTLD_DEFAULT, all[i].name);
      places[t][i] = all[i].found == nullptr ? nullptr : place_of(tables[t], all[i].found);
      if (places[t][i] == nullptr) return false;
    }
  }
  g_read = reinterpret_cast<Read>(all[0].found);
  g_write = reinterpret_cast<Write>(all[1].found);
  constexpr long kPage = 4096;
  for (size_t t = 0; t < 2; ++t) {
    // They lie among what the loader has made read-only after it was relocated, and are so again
    // afterwards.
    const long start = raw::word(tables[t]) & ~(kPage - 1);
    const long length = raw::word(tables[t] + kEntries) - start;
    if (raw::is_error(raw::raw_syscall(SYS_mprotect, start, length, PROT_READ | PROT_WRITE))) {
      return false;  // of the first table; the second lies beside it
    }
    for (size_t i = 0; i < 5; ++i) {
      // Release: whoever calls the new one finds the old one behind it.
      std::atomic_ref(*places[t][i]).store(all[i].by, std::memory_order_release);
    }
    raw::raw_syscall(SYS_mprotect, start, length, PROT_READ);
  }
  return true;
}

}  // namespace

bool hook_streams() {
  uint32_t state = g_state.load(std::memory_order_acquire);
  if (state == kUnknown &&
      g_state.compare_exchange_strong(state, kHooking, std::memory_order_acq_rel)) {
    state = replace_all() ? kHooked : kUnhookable;
    g_state.store(state, std::memory_order_release);
  }
  return state == kHooked;
}

bool streams_hooked() {
  return g_state.load(std::memory_order_acquire) == kHooked;
}

bool is_stream_seen(int fd) {
  return streams_hooked() || (is_boostable(fd) && hook_streams());
}

}  // namespace booster::preload
