"""Other libraries' models on mmkernels' attention. Nothing of theirs is imported, or changed, unasked."""

from mmkernels.integrations import transformers
from mmkernels.integrations.patching import patch
from mmkernels.integrations.report import PatchReport
from mmkernels.integrations.sdpa import override_sdpa

__all__ = ["PatchReport", "override_sdpa", "patch", "transformers"]
