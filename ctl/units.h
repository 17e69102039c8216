// Numbers as people read them: at most three significant digits and a unit.
#pragma once

#include <cstdint>
#include <string>

namespace booster::ctl {

/// 999 B, 1.00 KiB, 12.3 MiB, 456 GiB.
std::string bytes_text(double bytes);

/// 1,234,567.
std::string count_text(uint64_t count);

/// "1 file", "3 files": `one` gets an s.
std::string count_of(uint64_t count, const char* one);

/// 0.25 s, 12.3 s, 4 min 5 s, 2 h 13 min, 3 d 4 h.
std::string duration_text(double seconds);

/// 103 us, 1.20 ms, 3.40 s.
std::string latency_text(double microseconds);

}  // namespace booster::ctl
