// Pools one box without Python: run LIBRARY MODEL, where LIBRARY is what `python -m roialign env` calls the library,
// and MODEL an archive of TorchScript (.pt) or a package of AOTInductor (.pt2) that takes features and rois.
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

#include <iostream>
#include <string>

int main(int count, char** arguments) {
  if (count != 3) {
    std::cerr << "usage: run LIBRARY MODEL\n";
    return 2;
  }
  // Loading the library registers the operators; nothing of it is called by name.
  if (dlopen(arguments[1], RTLD_NOW) == nullptr) {
    std::cerr << dlerror() << "\n";
    return 1;
  }
  const std::string path = arguments[2];
  const torch::Tensor features = torch::arange(64.0F).reshape({1, 1, 8, 8});
  const torch::Tensor rois = torch::tensor({{0.0F, 1.0F, 2.0F, 5.0F, 6.0F}, {0.0F, 0.0F, 0.0F, 8.0F, 4.0F}});

  c10::InferenceMode guard;
  torch::Tensor pooled;
  if (path.ends_with(".pt2")) {
    torch::inductor::AOTIModelPackageLoader package(path);
    pooled = package.run({features, rois}).at(0);
  } else {
    pooled = torch::jit::load(path).forward({features, rois}).toTensor();
  }
  for (int64_t index = 0; index < pooled.numel(); ++index) {
    std::cout << pooled.flatten()[index].item<float>() << "\n";
  }
}
