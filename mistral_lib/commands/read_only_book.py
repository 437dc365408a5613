"""JupyterLab's access to files, with the tracked notebooks read-only: JupyterLab neither saves them by itself nor on request.

They can be opened and run beside their working copies, but what a person's corpus leaves in their outputs is not stored.
"""

from pathlib import Path
from typing import Any

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

from mistral_lib.run import paths


class ReadOnlyBook(AsyncLargeFileManager):
    """jupyter_server's own file manager; only the project's folder notebooks/ is not writable."""

    async def get(self, path: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        model = await super().get(path, *arguments, **options)
        place = Path(self.root_dir, path.strip("/")).resolve()
        return {**model, "writable": model["writable"] and paths.notebooks() not in (place, *place.parents)}
