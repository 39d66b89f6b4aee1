"""Tools of this source tree; no part of a wheel."""
