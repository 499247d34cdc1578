from moeopt.traces.engines import ENGINES, write_placement
from moeopt.traces.loads_out import LOAD_FORMATS, write_trace
from moeopt.traces.placement_csv import read_gpu_load_csv, write_gpu_load_csv
from moeopt.traces.placements import read_placement
from moeopt.traces.read import read_trace
from moeopt.traces.synthetic import generate
from moeopt.traces.trace import Trace

__all__ = [
    "ENGINES",
    "LOAD_FORMATS",
    "Trace",
    "generate",
    "read_gpu_load_csv",
    "read_placement",
    "read_trace",
    "write_gpu_load_csv",
    "write_placement",
    "write_trace",
]
