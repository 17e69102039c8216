// Errors as values across module borders: either what was asked for, or why not. C++20 has no
// std::expected; this is the small part of it that the daemon needs.
#pragma once

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>
#include <variant>

namespace booster::daemon {

/// Marks a value as the failing alternative, so that T and E may be the same type.
template <class E>
struct Failure {
  E error;
};
template <class E>
Failure(E) -> Failure<E>;

template <class T, class E = std::error_code>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Failure<E> failure) : state_(std::in_place_index<1>, std::move(failure.error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  /// Only when ok().
  T& operator*() { return *std::get_if<0>(&state_); }
  const T& operator*() const { return *std::get_if<0>(&state_); }
  T* operator->() { return std::get_if<0>(&state_); }
  const T* operator->() const { return std::get_if<0>(&state_); }

  /// Only when not ok().
  const E& error() const { return *std::get_if<1>(&state_); }

 private:
  std::variant<T, E> state_;
};

/// What a failed system call left in errno, as a failure.
inline Failure<std::error_code> errno_failure() {
  return Failure{std::error_code(errno, std::generic_category())};
}

/// A failure in words, for the person who reads the log or the command line.
template <class T>
using Outcome = Result<T, std::string>;

}  // namespace booster::daemon
