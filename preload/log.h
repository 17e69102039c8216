// The shim's log: one line for what the user must act on, nothing in normal operation.
#pragma once

namespace booster::preload {

/// Appends "booster[PID]: text" to GLFS_BOOSTER_LOGFILE, or to /dev/stderr. The file is opened for
/// the line and closed again, so that the program's descriptors stay its own. Never fails, never
/// allocates, keeps errno. Callable from any thread.
void log_line(const char* text);

}  // namespace booster::preload
