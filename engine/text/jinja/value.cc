#include "engine/text/jinja/value.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/text/jinja/environment.h"
#include "engine/text/jinja/print.h"
#include "engine/text/utf8.h"

namespace sterna::jinja {
namespace {

Status CheckSize(int depth, size_t weight) {
  if (depth > kMaxValueDepth) {
    return absl::InvalidArgumentError(
        absl::StrCat("a value is nested deeper than ", kMaxValueDepth, " lists or dicts"));
  }
  if (weight > kMaxValueWeight) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a value is larger than ", kMaxValueWeight, " bytes"));
  }
  return absl::OkStatus();
}

// Equal keys (1 == 1.0 == true) have equal texts; nullopt: not hashable.
std::optional<std::string> HashKey(const Value& key) {
  if (key.is_string()) return "s" + key.string();
  if (key.is_none()) return "n";
  if (key.is_undefined()) return "u";
  if (key.is_bool() || key.is_int()) return absl::StrCat("i", key.AsInt());
  if (key.is_float()) {
    const double value = key.float_value();
    if (value > -9e15 && value < 9e15 &&
        value == static_cast<double>(static_cast<int64_t>(value))) {
      return absl::StrCat("i", static_cast<int64_t>(value));
    }
    return "f" + Repr(key);
  }
  if (key.is_sequence(SequenceKind::kTuple)) {
    std::string text = "t";
    for (const Value& item : key.items()) {
      const std::optional<std::string> part = HashKey(item);
      if (!part) return std::nullopt;
      absl::StrAppend(&text, part->size(), ":", *part);
    }
    return text;
  }
  return std::nullopt;
}

constexpr size_t kMaxHintBytes = 200;

}  // namespace

// The hint may name a key of megabytes, and is kept as long as the value.
Value Value::MakeUndefined(std::string hint) {
  if (hint.size() > kMaxHintBytes) {
    hint.resize(PreviousCharacter(hint, kMaxHintBytes));
    hint += "...";
  }
  return Value(Undefined{std::move(hint)});
}

StatusOr<Value> Value::MakeSequence(SequenceKind kind, std::vector<Value> items,
                                    std::string type_name) {
  int depth = 1;
  size_t weight = 1;
  for (const Value& item : items) {
    depth = std::max(depth, item.depth() + 1);
    weight += item.weight();
  }
  STERNA_RETURN_IF_ERROR(CheckSize(depth, weight));
  return Value(std::make_shared<const Sequence>(
      Sequence{kind, std::move(items), depth, weight, std::move(type_name)}));
}

StatusOr<Value> Value::MakeDict(std::vector<std::pair<Value, Value>>&& entries) {
  auto dict = std::make_shared<Dict>();
  int depth = 1;
  size_t weight = 1;
  for (auto& [key, value] : entries) {
    const std::optional<std::string> hash = HashKey(key);
    if (!hash) {
      return absl::InvalidArgumentError(absl::StrCat("unhashable type: '", TypeName(key), "'"));
    }
    depth = std::max({depth, key.depth() + 1, value.depth() + 1});
    weight += key.weight() + value.weight();
    const auto [it, inserted] = dict->index.try_emplace(*hash, dict->entries.size());
    if (inserted) {
      dict->entries.emplace_back(std::move(key), std::move(value));
    } else {
      dict->entries[it->second].second = std::move(value);
    }
  }
  STERNA_RETURN_IF_ERROR(CheckSize(depth, weight));
  dict->depth = depth;
  dict->weight = weight;
  return Value(DictPtr(std::move(dict)));
}

int Value::depth() const {
  if (is_sequence()) return sequence().depth;
  return is_dict() ? dict().depth : 0;
}

size_t Value::weight() const {
  if (is_sequence()) return sequence().weight;
  if (is_dict()) return dict().weight;
  return is_string() ? string().size() + 1 : 1;
}

const Value* Dict::Find(const Value& key) const {
  const std::optional<std::string> hash = HashKey(key);
  if (!hash) return nullptr;
  const auto it = index.find(*hash);
  return it == index.end() ? nullptr : &entries[it->second].second;
}

const Value* Dict::Find(std::string_view key) const {
  const auto it = index.find("s" + std::string(key));
  return it == index.end() ? nullptr : &entries[it->second].second;
}

std::string TypeName(const Value& value) {
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "NoneType";
  if (value.is_bool()) return "bool";
  if (value.is_int()) return "int";
  if (value.is_float()) return "float";
  if (value.is_string()) return "str";
  if (value.is_dict()) return "dict";
  if (value.is_namespace()) return "Namespace";
  if (value.is_loop()) return "LoopContext";
  if (value.is_callable()) return value.callable().is_macro ? "Macro" : "function";
  switch (value.sequence().kind) {
    case SequenceKind::kList:
      return "list";
    case SequenceKind::kTuple:
      return "tuple";
    case SequenceKind::kRange:
      return "range";
    case SequenceKind::kView:
      return value.sequence().type_name;
    case SequenceKind::kGenerator:
      break;
  }
  return "generator";
}

bool IsTrue(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_number()) return value.AsDouble() != 0;
  if (value.is_string()) return !value.string().empty();
  if (value.is_dict()) return !value.dict().entries.empty();
  if (value.is_sequence()) {
    return value.sequence().kind == SequenceKind::kGenerator || !value.items().empty();
  }
  return true;
}

bool Equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (!a.is_float() && !b.is_float()) return a.AsInt() == b.AsInt();
    return a.AsDouble() == b.AsDouble();
  }
  if (a.is_string() && b.is_string()) return a.string() == b.string();
  if (a.is_none() || a.is_undefined()) {
    return a.is_none() == b.is_none() && a.is_undefined() == b.is_undefined();
  }
  if (a.is_sequence() && b.is_sequence()) {
    if (a.sequence().kind != b.sequence().kind) return false;
    return std::equal(a.items().begin(), a.items().end(), b.items().begin(), b.items().end(),
                      Equal);
  }
  if (a.is_dict() && b.is_dict()) {
    if (a.dict().entries.size() != b.dict().entries.size()) return false;
    for (const auto& [key, value] : a.dict().entries) {
      const Value* other = b.dict().Find(key);
      if (other == nullptr || !Equal(value, *other)) return false;
    }
    return true;
  }
  if (a.is_namespace() && b.is_namespace()) return a.name_space() == b.name_space();
  if (a.is_callable() && b.is_callable()) return &a.callable() == &b.callable();
  return a.is_loop() && b.is_loop() && &a.loop() == &b.loop();
}

StatusOr<int> Compare(const Value& a, const Value& b) {
  const auto sign = [](const auto& x, const auto& y) { return x < y ? -1 : y < x ? 1 : 0; };
  if (a.is_number() && b.is_number()) {
    if (!a.is_float() && !b.is_float()) return sign(a.AsInt(), b.AsInt());
    return sign(a.AsDouble(), b.AsDouble());
  }
  // The order of UTF-8 bytes is the order of code points.
  if (a.is_string() && b.is_string()) return sign(a.string(), b.string());
  const bool same_kind = a.is_sequence() && b.is_sequence(a.sequence().kind);
  if (same_kind && (a.is_sequence(SequenceKind::kList) || a.is_sequence(SequenceKind::kTuple))) {
    const size_t shared = std::min(a.items().size(), b.items().size());
    for (size_t i = 0; i < shared; ++i) {
      if (!Equal(a.items()[i], b.items()[i])) return Compare(a.items()[i], b.items()[i]);
    }
    return sign(a.items().size(), b.items().size());
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'<' is not supported between '", TypeName(a), "' and '", TypeName(b), "'"));
}

}  // namespace sterna::jinja
