"""Artifacts, the files that runs write: a folder of this machine."""

from ._folder import FolderArtifacts as FolderArtifacts
