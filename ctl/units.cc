// Rounding without a fourth digit.
#include "ctl/units.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace booster::ctl {
namespace {

std::string three_digits(double value, const char* unit) {
  // 9.995 and 99.95 would be rounded up to a fourth digit.
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f} {}", value, decimals, unit);
}

}  // namespace

std::string bytes_text(double bytes) {
  static constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  size_t unit = 0;
  // From 999.5 on the text would have four digits.
  while (bytes >= 999.5 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : three_digits(bytes, kUnits[unit]);
}

std::string count_text(uint64_t count) {
  const std::string digits = std::to_string(count);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string count_of(uint64_t count, const char* one) {
  return fmt::format("{} {}{}", count_text(count), one, count == 1 ? "" : "s");
}

std::string duration_text(double seconds) {
  seconds = std::max(seconds, 0.0);
  if (seconds < 59.95) return three_digits(seconds, "s");
  const auto whole = static_cast<uint64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{} h {} min", whole / 3600, whole / 60 % 60);
  return fmt::format("{} d {} h", count_text(whole / 86400), whole / 3600 % 24);
}

std::string latency_text(double microseconds) {
  if (microseconds < 999.5) return three_digits(microseconds, "us");
  if (microseconds < 999'500) return three_digits(microseconds / 1000, "ms");
  return three_digits(microseconds / 1e6, "s");
}

}  // namespace booster::ctl
