"""The folders of workspaces, into which runs put files: on a disk of this machine."""

from ._folders import LocalFolders as LocalFolders
