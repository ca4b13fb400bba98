#include "bench/gpu/timeline_log.h"

#include <cxxabi.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <ostream>
#include <set>

namespace sterna {
namespace {

constexpr const char* kKinds[] = {"kernel", "copy", "set", "graph"};
constexpr int64_t kNsOfMs = 1'000'000;

// A whole number from 0 to `most` in `text`, or false.
bool ParseNumber(const char* text, int64_t most, int64_t& number) {
  const char* const end = text + std::strlen(text);
  const auto [parsed, failure] = std::from_chars(text, end, number);
  return failure == std::errc() && parsed == end && parsed != text && number >= 0 && number <= most;
}

// As people write it, if it is a name of C++; on one line and without tabs in any case.
std::string Readable(const std::string& name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> demangled(
      abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), std::free);
  std::string text = status == 0 ? demangled.get() : name;
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c == '\t' || c == '\n'; }, ' ');
  return text;
}

}  // namespace

bool ParseTimelineOptions(const std::function<const char*(const char*)>& get_variable,
                          TimelineOptions& options, std::string& error) {
  const auto number = [&](const char* variable, int64_t unit, int64_t& value) {
    const char* const text = get_variable(variable);
    if (text == nullptr) return true;
    constexpr int64_t kMost = 1'000'000'000;
    if (!ParseNumber(text, kMost, value)) {
      error = std::string(variable) + " is \"" + text + "\"; it is a whole number from 0 to " +
              std::to_string(kMost);
      return false;
    }
    value *= unit;
    return true;
  };
  if (const char* const file = get_variable("STERNA_TIMELINE_FILE")) options.file = file;
  if (const char* const detail = get_variable("STERNA_TIMELINE_DETAIL")) {
    options.whole_graphs = std::strcmp(detail, "graphs") == 0;
    if (!options.whole_graphs && std::strcmp(detail, "nodes") != 0) {
      error = std::string("STERNA_TIMELINE_DETAIL is \"") + detail + "\"; it is nodes or graphs";
      return false;
    }
  }
  return number("STERNA_TIMELINE_RECORDS", 1, options.most_records) &&
         number("STERNA_TIMELINE_START_MS", kNsOfMs, options.start_ns) &&
         number("STERNA_TIMELINE_STOP_MS", kNsOfMs, options.stop_ns);
}

void TimelineLog::Add(TimelineRecord record, std::string_view name) {
  const std::lock_guard lock(mutex_);
  if (record.start_ns == 0 || record.end_ns == 0) {  // CUPTI's way to say that it does not know
    ++without_time_;
    return;
  }
  record.start_ns -= origin_ns_;
  record.end_ns -= origin_ns_;
  if (record.start_ns < options_.start_ns || record.start_ns >= options_.stop_ns) {
    ++outside_;
    return;
  }
  const auto [known, is_new] =
      name_ids_.try_emplace(std::string(name), static_cast<int64_t>(names_.size()));
  if (is_new) names_.emplace_back(name);
  entries_.push_back({.record = record, .name = known->second});
  if (static_cast<int64_t>(entries_.size()) > options_.most_records) {
    entries_.pop_front();
    ++older_;
  }
}

void TimelineLog::AddLost(int64_t records) {
  const std::lock_guard lock(mutex_);
  lost_ += records;
}

void TimelineLog::Write(std::ostream& out) const {
  const std::lock_guard lock(mutex_);
  out << "sterna-timeline\t1\n";
  out << "note\tlost\t" << lost_ << "\nnote\twithout_time\t" << without_time_ << "\nnote\toutside\t"
      << outside_ << "\nnote\tolder\t" << older_ << "\n";
  std::set<int64_t> used;
  for (const Entry& e : entries_) used.insert(e.name);
  for (const int64_t id : used) {
    out << "name\t" << id << "\t" << Readable(names_[static_cast<size_t>(id)]) << "\n";
  }
  for (const auto& [r, name] : entries_) {
    out << kKinds[static_cast<size_t>(r.kind)] << "\t" << r.start_ns << "\t" << r.end_ns << "\t"
        << r.stream << "\t" << r.launch << "\t" << r.graph << "\t" << r.bytes << "\t" << name
        << "\n";
  }
}

}  // namespace sterna
