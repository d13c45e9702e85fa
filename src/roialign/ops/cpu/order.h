// The order in which RoIs are worked on, in passes whose plans take a bounded amount of memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace roialign {

// RoIs by image, then from top to bottom, so that neighbours read the same cells.
class Order {
 public:
  // `rois` has so many columns. bytes_of(row) estimates the plan of one of its rows, or fails where it cannot be used:
  // before any work is done, and in the order given.
  template <typename T, typename BytesOf>
  Order(const T* rois, int64_t columns, std::vector<int64_t> given, const BytesOf& bytes_of)
      : rows(std::move(given)), bounds{0} {
    std::vector<double> bytes_of_each;  // as given
    std::vector<int64_t> places(rows.size());
    for (size_t place = 0; place < rows.size(); ++place) {
      bytes_of_each.push_back(bytes_of(rows[place]));
      places[place] = static_cast<int64_t>(place);
    }
    std::stable_sort(places.begin(), places.end(), [&](int64_t a, int64_t b) {
      const T* first = rois + rows[a] * columns;
      const T* second = rois + rows[b] * columns;
      return first[0] != second[0] ? first[0] < second[0] : first[2] < second[2];
    });
    const std::vector<int64_t> unsorted = rows;
    double bytes = 0;
    for (size_t place = 0; place < rows.size(); ++place) {
      rows[place] = unsorted[places[place]];
      const double more = bytes_of_each[places[place]];
      if (bytes > 0 && bytes + more > kBytesPerPass) {
        bounds.push_back(static_cast<int64_t>(place));
        bytes = 0;
      }
      bytes += more;
    }
    bounds.push_back(static_cast<int64_t>(rows.size()));
  }

  int64_t passes() const { return static_cast<int64_t>(bounds.size()) - 1; }
  int64_t size(int64_t pass) const { return bounds[pass + 1] - bounds[pass]; }
  int64_t row(int64_t pass, int64_t place) const { return rows[bounds[pass] + place]; }

 private:
  static constexpr double kBytesPerPass = 6 << 20;

  std::vector<int64_t> rows;
  std::vector<int64_t> bounds;  // of the passes, in `rows`
};

}  // namespace roialign
