// Which columns of ternary weights share a scale: of one matrix, and of all matrices of a model.
//
// The weights alone decide, not the file they were stored in, so that the same weights give the
// same answers from any: a matrix has the coarsest scales that say the same, one for the tensor,
// one for each row, or else the largest groups. Where any matrix of a model needs groups,
// activations are quantised in groups too, of the smallest size that any matrix needs, and the
// others' scales are spread to groups of that size. Groups are of 64 * 2^n columns.
//
// Thread contract: free functions.
#ifndef STERNA_ENGINE_MODEL_SCALE_GROUPS_H_
#define STERNA_ENGINE_MODEL_SCALE_GROUPS_H_

#include <cstdint>
#include <vector>

#include "engine/model/weights.h"
#include "kernels/ternary_format.h"

namespace sterna {

// Gives `matrix`, whose groups of `group_size` columns have `scales` [rows][cols / group_size], the
// coarsest scales that say the same. 0 is the scale of a group of zeros, which goes with any.
// `group_size` is 64 * 2^n and divides the columns, or is all of them.
void SetCoarsestScales(std::vector<float> scales, int64_t group_size, TernaryMatrix& matrix);

// Brings all ternary matrices of a model, each with its coarsest scales and none placed yet, to
// what they have in common. Returns ModelConfig::scale_group_size: the columns of a group, or 0
// where no matrix needs groups.
int64_t UnifyScaleGroups(ModelWeights& weights);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_SCALE_GROUPS_H_
