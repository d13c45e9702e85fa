// A result of very many bins is made in strips, for the plans of all of them would take several times its memory.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "passes.h"

namespace roialign {

constexpr int64_t kMostBins = 1 << 13;  // of a strip, along each axis

// Strips of a result, one after the other: of one row where they do not have all columns and `one_row` is asked for.
class Strips {
 public:
  Strips(const Geometry& geometry, bool one_row) : geometry(geometry) {
    rows = one_row && geometry.pooled.width > kMostBins ? 1 : kMostBins;
    across = (geometry.pooled.width + kMostBins - 1) / kMostBins;
  }

  int64_t count() const { return (geometry.pooled.height + rows - 1) / rows * across; }

  Geometry of(int64_t number) const {
    const PooledSize whole = geometry.pooled;
    Geometry strip = geometry;
    strip.strip = {number / across * rows, number % across * kMostBins, whole};
    strip.pooled = {
        std::min(rows, whole.height - strip.strip.row), std::min(kMostBins, whole.width - strip.strip.column)};
    return strip;
  }

 private:
  Geometry geometry;
  int64_t rows, across;
};

// The passes of all strips, of which the plans of one are held.
template <typename T>
class PassesOfStrips {
 public:
  struct Held {
    int64_t number;
    Geometry strip;
    Passes<T> passes;

    Held(int64_t number, const T* rois, const std::vector<int64_t>& rows, const Geometry& strip, const PlanForm& form)
        : number(number), strip(strip), passes(rois, rows, this->strip, form) {}
  };

  PassesOfStrips(const T* rois, std::vector<int64_t> rows, const Geometry& geometry, const PlanForm& form)
      : rois(rois), rows(std::move(rows)), form(form), strips(geometry, false) {
    for (int64_t number = strips.count() - 1; number >= 0; --number) {
      passes_of.insert(passes_of.begin(), hold(number).passes.count());
    }
  }

  int64_t count() const {
    int64_t passes = 0;
    for (const int64_t some : passes_of) {
      passes += some;
    }
    return passes;
  }

  // The strip of a pass; `pass` becomes its number among those of the strip.
  Held& at(int64_t& pass) {
    int64_t number = 0;
    for (; pass >= passes_of[number]; ++number) {
      pass -= passes_of[number];
    }
    return hold(number);
  }

 private:
  const T* rois;
  std::vector<int64_t> rows;
  PlanForm form;
  Strips strips;
  std::vector<int64_t> passes_of;  // each strip
  std::unique_ptr<Held> held;

  Held& hold(int64_t number) {
    if (!held || held->number != number) {
      held.reset();
      held = std::make_unique<Held>(number, rois, rows, strips.of(number), form);
    }
    return *held;
  }
};

}  // namespace roialign
