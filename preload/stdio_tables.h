// glibc's streams read and write inside libc, where no preload sees them: through five entries
// (read, write, seek, close, stat) of two exported tables, _IO_file_jumps for bytes and
// _IO_wfile_jumps for wide characters. Once a file of this process is to be boosted these entries
// are replaced, so that streams take the shim's own calls and a stream on a file is like any other
// user of its descriptor. libc checks where a table lies, and not what is in it.
#pragma once

#include "preload/file_table.h"

namespace booster::preload {

/// Replaces them, the first time. False when the tables are not as they are known, so that streams
/// stay unseen. Thread-safe; waits for nobody.
bool hook_streams();

/// Whether streams are seen.
bool streams_hooked();
/// Whether one on `fd` is: the first on GlusterFS has all of them seen from then on.
bool is_stream_seen(int fd);

}  // namespace booster::preload
