"""A base model on the Hugging Face hub: fetches its files to the hub's cache on this machine; if that fails, lists the steps to take.

A name is owner/name, or owner/name@revision with a commit, tag or branch; without a revision it means the newest commit.
"""

from functools import cache
from pathlib import Path

from mistral_lib.family import refused_models
from mistral_lib.model.model_folder import LEFT_OUT, SMALL_FILES, WEIGHT_FILES, BaseModelError
from mistral_lib.run import disk

SPARE = 2**30  # bytes of disk that stay free


class UnreachableError(BaseModelError):
    """The hub cannot be reached and the cache does not have the files."""


def repository(name: str) -> str:
    """owner/name, without the revision."""
    return name.partition("@")[0]


def revision(name: str) -> str | None:
    """The revision in a name; None for the newest commit. Errors: BaseModelError if the name ends with @."""
    _, mark, requested = name.partition("@")
    if mark and not requested:
        raise BaseModelError(
            f"base_model = {name!r}: no revision after the @; expected owner/name, or owner/name@ and a commit, tag or branch"
        )
    return requested or None


@cache
def folder(name: str, weights: bool = True) -> Path:
    """The folder of a hub model in the cache; missing files are fetched. weights: False for configuration and tokenizer only.

    A process asks the hub once. Errors: BaseModelError with the steps to take, before anything is fetched for a model that cannot be trained; DiskFullError before the
    first byte.
    """
    if reason := refused_models.reason_by_name(repository(name)):
        raise BaseModelError(f"base_model = {name!r}: the workbook cannot train this model: {reason}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    requested, patterns = revision(name), [*SMALL_FILES, *(WEIGHT_FILES if weights else ())]
    if weights:
        require_room(name, patterns)
    try:
        return Path(snapshot_download(repository(name), revision=requested, allow_patterns=patterns, ignore_patterns=list(LEFT_OUT)))
    except HFValidationError as error:
        raise BaseModelError(f"base_model = {name!r}: not a valid name on the hub: {error}") from None
    except HfHubHTTPError as error:
        raise BaseModelError(f"base_model = {name!r}: {_refusal(name, error)}") from error
    except OSError as error:  # no connection or a server error, and the cache does not have the files
        if isinstance(error.__cause__, HfHubHTTPError):
            raise BaseModelError(f"base_model = {name!r}: {_refusal(name, error.__cause__)}") from error
        raise UnreachableError(f"base_model = {name!r}: {_unreachable(name, error)}") from error


def require_room(name: str, patterns: list[str]) -> None:
    """Errors: DiskFullError if the disk of the hub's cache has no room for the files that are not there yet, and 1 GiB beside them.

    If the hub does not answer, nothing is checked: fetching then reports that, or finds everything in the cache.
    """
    from huggingface_hub import constants

    missing = missing_bytes(name, patterns)
    if missing:
        what = f"base_model = {name!r} in the hub's cache and 1 GiB beside it"
        disk.require(Path(constants.HF_HUB_CACHE), missing + SPARE, what, variable="HF_HOME")


def missing_bytes(name: str, patterns: list[str]) -> int:
    """The size of the files that these patterns select and that are not in the cache; 0 if the hub does not answer."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects

    try:
        seconds, commit = constants.HF_HUB_ETAG_TIMEOUT, revision(name) or constants.DEFAULT_REVISION
        found = HfApi().model_info(repository(name), revision=commit, files_metadata=True, timeout=seconds)
    except Exception:  # whatever keeps the hub from answering, fetching meets it next and reports it
        return 0
    files = filter_repo_objects(
        found.siblings or [], allow_patterns=patterns, ignore_patterns=list(LEFT_OUT), key=lambda one: one.rfilename
    )
    absent = (one for one in files if not isinstance(try_to_load_from_cache(repository(name), one.rfilename, revision=found.sha), str))
    return sum(one.size or 0 for one in absent)


def is_local(name: str) -> bool:
    """Whether configuration and tokenizer are in the cache on this machine; makes no request. Errors: BaseModelError."""
    return cached_folder(name) is not None


def cached_folder(name: str) -> Path | None:
    """The folder of a hub model in the cache, with the files that were fetched so far; None if there is none. Makes no request.
    Errors: BaseModelError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    patterns = list(SMALL_FILES)
    try:
        return Path(snapshot_download(repository(name), revision=revision(name), allow_patterns=patterns, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _refusal(name: str, error: Exception) -> str:
    """What the hub's error means, and the steps to take."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import DisabledRepoError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    page, token, status = f"{constants.ENDPOINT}/{repository(name)}", get_token(), error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return f"the model has no revision {revision(name)!r}; expected a commit (all 40 digits), tag or branch of {page}/commits/main"
    if isinstance(error, DisabledRepoError):
        return f"the hub has disabled this model; see {page}"
    if isinstance(error, GatedRepoError):
        if not token:
            return f"the model is gated and there is no token on this machine. {_steps(page)}"
        return (
            f"the model is gated, and the account of your token may not read it. Open {page} with that account, accept the conditions, wait "
            "until access is granted; a fine-grained token also needs 'Read access to contents of all public gated repos you can access'"
        )
    if isinstance(error, RepositoryNotFoundError):
        private = "it may also be private and not open to the account of your token" if token else f"if it is private: {_steps(page)}"
        return f"there is no folder of this name and no such model on the hub; check the name (owner/name, as on its page); {private}"
    if status in (401, 403):
        return (
            f"the hub refuses {'the token' if token else 'access'} ({status}); make a new one at {constants.ENDPOINT}/settings/tokens, "
            "then `hf auth login`, and check that HF_TOKEN does not hold an old one"
        )
    return f"the hub answers {status}; try again later, or set base_model to a local folder with the model"


def _steps(page: str) -> str:
    endpoint = page.rsplit("/", 2)[0]
    return (
        f"1. Sign in and accept the model's conditions on {page} 2. make a token with read access at {endpoint}/settings/tokens "
        "3. `hf auth login`, or set the environment variable HF_TOKEN 4. run the same command again"
    )


def _unreachable(name: str, error: Exception) -> str:
    from huggingface_hub import constants

    folder = f"models/{repository(name).rpartition('/')[2]}"
    option = f" --revision {revision(name)}" if revision(name) else ""
    offline = f"the hub ({constants.ENDPOINT}) cannot be reached ({type(error.__cause__ or error).__name__})"
    why, remedy = ("HF_HUB_OFFLINE is set", "unset it") if constants.HF_HUB_OFFLINE else (offline, "try again online")
    return (
        f"there is no folder of this name, so it is taken as a hub id; {why} and the cache does not have the complete model; {remedy}, "
        f"or fetch it on a machine with a network (hf download {repository(name)}{option} --exclude 'consolidated*' --local-dir {folder}), "
        f"copy the folder to this machine and set base_model: {folder}"
    )
