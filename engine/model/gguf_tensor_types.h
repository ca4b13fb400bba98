// The tensor types that GGUF files may hold, and how many bytes they take.
// Source: ggml (ggml.h for the numbers, ggml-common.h for the blocks); I2_S: BitNet's fork.
#ifndef STERNA_ENGINE_MODEL_GGUF_TENSOR_TYPES_H_
#define STERNA_ENGINE_MODEL_GGUF_TENSOR_TYPES_H_

#include <cstdint>

namespace sterna {

struct GgufTypeInfo {
  uint32_t number;
  const char* name;
  int64_t block_elements;  // neighbours in a row that are packed together
  int64_t block_bytes;     // of them
};

inline constexpr GgufTypeInfo kGgufTypes[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},
    {3, "Q4_1", 32, 20},      {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},
    {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},      {10, "Q2_K", 256, 84},
    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74},  {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},  {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},   {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},   {36, "I2_S", 128, 32},    {39, "MXFP4", 32, 17},
    {40, "NVFP4", 64, 36},    {41, "Q1_0", 128, 18},    {42, "Q2_0", 64, 18},
};

// BitNet's fork of llama.cpp has its own types of these numbers, the second of which the main line
// gave away later. They are for kernels that are generated for one processor and one model's
// shapes: how they pack weights is written in no file.
inline constexpr uint32_t kBitNetTl1 = 38;
inline constexpr uint32_t kBitNetTl2 = 39;

// Of an I2_S tensor, whose blocks run on over the ends of rows: its scale and padding.
inline constexpr int64_t kI2sTailBytes = 32;
// Of a Q2_0 tensor of the fork that packs groups of 128 under the same number.
inline constexpr int64_t kForkQ2_0GroupElements = 128;
inline constexpr int64_t kForkQ2_0GroupBytes = 34;

// Null for a number that is no type, or no longer one.
constexpr const GgufTypeInfo* FindGgufType(uint32_t number) {
  for (const GgufTypeInfo& type : kGgufTypes) {
    if (type.number == number) return &type;
  }
  return nullptr;
}

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_GGUF_TENSOR_TYPES_H_
