"""A base model on the Hugging Face hub: fetches its files to the hub's cache on this machine; if that fails, lists the steps to take.

A name is owner/name, or owner/name@revision with a commit, tag or branch; without a revision it means the newest commit.
"""

from functools import cache
from pathlib import Path

from mistral_lib.model.model_folder import LEFT_OUT, SMALL_FILES, WEIGHT_FILES, BaseModelError


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

    A process asks the hub once. Errors: BaseModelError with the steps to take.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    requested, patterns = revision(name), [*SMALL_FILES, *(WEIGHT_FILES if weights else ())]
    try:
        return Path(snapshot_download(repository(name), revision=requested, allow_patterns=patterns, ignore_patterns=list(LEFT_OUT)))
    except HFValidationError as error:
        raise BaseModelError(f"base_model = {name!r}: not a valid name on the hub: {error}") from None
    except HfHubHTTPError as error:
        raise BaseModelError(f"base_model = {name!r}: {_refusal(name, error)}") from error
    except OSError as error:  # no connection or a server error, and the cache does not have the files
        advice = _refusal(name, error.__cause__) if isinstance(error.__cause__, HfHubHTTPError) else _unreachable(name, error)
        raise BaseModelError(f"base_model = {name!r}: {advice}") from error


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
