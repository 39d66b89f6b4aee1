// What the emulator has to say about a kernel, and where in its source.
#pragma once

#include <array>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace emulator {

/// A line of the kernel's source.
struct Site {
  const char* file = nullptr;
  int line = 0;

  bool operator==(const Site& other) const {
    return line == other.line && (file == other.file || std::strcmp(file, other.file) == 0);
  }
  bool operator!=(const Site& other) const { return !(*this == other); }
  std::string text() const { return file ? std::string(file) + ":" + std::to_string(line) : "nowhere"; }
};

/// As a default argument: the line that calls the function.
constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }

struct Report {
  std::string kind, message, site;
  int thread = -1;
  std::array<int, 3> block = {-1, -1, -1};

  std::string text() const {
    return kind + ": " + message + " (" + site + ", thread " + std::to_string(thread) + ", block " +
           std::to_string(block[0]) + "," + std::to_string(block[1]) + "," + std::to_string(block[2]) + ")";
  }
};

/// The end of a launch: what stopped it, or the first of what was collected; `all` has the rest.
struct Error : std::runtime_error {
  explicit Error(Report report) : std::runtime_error(report.text()), first(report), all{std::move(report)} {}

  Report first;
  std::vector<Report> all;
};

}  // namespace emulator
