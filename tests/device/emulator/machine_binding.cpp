// Run, Stats and EmulatorError in Python. They belong to the module that has them: several may be imported, each with a
// machine of its own (tests/device/planted/planting.py).
#include <pybind11/stl.h>

#include "bind.h"
#include "module.h"

namespace emulator {
namespace {

py::dict dict_of(const Report& report) {
  py::dict all;
  all["kind"] = report.kind;
  all["message"] = report.message;
  all["site"] = report.site;
  all["thread"] = report.thread;
  all["block"] = py::make_tuple(report.block[0], report.block[1], report.block[2]);
  return all;
}

/// EmulatorError carries what a Report has, and `reports`, all that were collected.
void translate(const Error& error, py::handle type) {
  py::object raised = type(error.what());
  for (const auto& [name, value] : dict_of(error.first)) raised.attr(name) = value;
  py::list reports;
  for (const Report& report : error.all) reports.append(dict_of(report));
  raised.attr("reports") = reports;
  PyErr_SetObject(type.ptr(), raised.ptr());
}

}  // namespace

void bind_machine(py::module_& module) {
  static py::exception<Error> type(module, "EmulatorError");
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const Error& error) {
      translate(error, type);
    }
  });
  py::class_<BankConflicts>(module, "BankConflicts", py::module_local())
      .def_property_readonly("site", [](const BankConflicts& self) { return self.site.text(); })
      .def_property_readonly("access", [](const BankConflicts& self) { return name_of(self.access); })
      .def_readonly("accesses", &BankConflicts::accesses)
      .def_readonly("extra_cycles", &BankConflicts::extra_cycles)
      .def("__repr__", [](const BankConflicts& self) {
        return self.site.text() + ": " + std::to_string(self.accesses) + " warps " + name_of(self.access) + ", " +
               std::to_string(self.extra_cycles) + " extra cycles";
      });
  py::class_<Stats>(module, "Stats", py::module_local())
      .def_readonly("blocks", &Stats::blocks)
      .def_readonly("barriers", &Stats::barriers)
      .def_readonly("collectives", &Stats::collectives)
      .def_readonly("matrix_products", &Stats::matrix_products)
      .def_readonly("matrix_loads", &Stats::matrix_loads)
      .def_readonly("copies", &Stats::copies)
      .def_readonly("bytes_copied", &Stats::bytes_copied)
      .def_readonly("global_bytes_read", &Stats::global_bytes_read)
      .def_readonly("global_bytes_written", &Stats::global_bytes_written)
      .def_readonly("shared_bytes_read", &Stats::shared_bytes_read)
      .def_readonly("shared_bytes_written", &Stats::shared_bytes_written)
      .def_readonly("switches", &Stats::switches)
      .def_readonly("reports", &Stats::reports)
      .def_readonly("bank_conflicts", &Stats::bank_conflicts);
  py::class_<Run>(module, "Run", "Options of launches (seed, races, banks) and what was counted in them (stats).",
                  py::module_local())
      .def(py::init([](uint64_t seed, bool races, bool banks) { return Run{{seed, races, banks}, {}}; }), py::kw_only(),
           py::arg("seed") = 0, py::arg("races") = true, py::arg("banks") = true)
      .def_readonly("stats", &Run::stats);
}

}  // namespace emulator
