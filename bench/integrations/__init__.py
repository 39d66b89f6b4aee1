"""Models of other libraries from end to end: their own attention beside mmkernels'."""
