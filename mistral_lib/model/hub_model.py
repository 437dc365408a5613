"""A base model on the Hugging Face hub: its files in the hub's own cache on this machine, and in plain steps what to do when they cannot be had.

A name is owner/name, or owner/name@revision for a commit, tag or branch; without a revision the newest commit is meant.
"""

from functools import cache
from pathlib import Path

from mistral_lib.model.model_folder import LEFT_OUT, SMALL_FILES, WEIGHT_FILES, BaseModelError


def repository(name: str) -> str:
    """owner/name, without the revision."""
    return name.partition("@")[0]


def revision(name: str) -> str | None:
    """The revision that a name asks for; None for the newest commit. Errors: BaseModelError for an @ with nothing behind it."""
    _, mark, wanted = name.partition("@")
    if mark and not wanted:
        raise BaseModelError(
            f"base_model = {name!r}: no revision behind the @; expected owner/name@revision with a commit, tag or branch, or owner/name"
        )
    return wanted or None


@cache
def folder(name: str, weights: bool = True) -> Path:
    """The folder of a hub model in the cache, what is not there yet fetched. weights: False for configuration and tokenizer only.

    One process asks the hub once. Errors: BaseModelError with the steps to take.
    """
    wanted = revision(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    patterns = [*SMALL_FILES, *(WEIGHT_FILES if weights else ())]
    try:
        return Path(snapshot_download(repository(name), revision=wanted, allow_patterns=patterns, ignore_patterns=list(LEFT_OUT)))
    except HFValidationError as error:
        raise BaseModelError(f"base_model = {name!r}: no name that the hub could have: {error}") from None
    except HfHubHTTPError as error:
        raise BaseModelError(f"base_model = {name!r}: {_refused(name, error)}") from error
    except OSError as error:  # the hub out of reach or out of order, and the cache without the files
        answered = isinstance(error.__cause__, HfHubHTTPError)
        words = _refused(name, error.__cause__) if answered else _out_of_reach(name, error)
        raise BaseModelError(f"base_model = {name!r}: {words}") from error


def is_here(name: str) -> bool:
    """Whether the cache on this machine holds configuration and tokenizer; the hub is not asked. Errors: BaseModelError."""
    wanted = revision(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        snapshot_download(repository(name), revision=wanted, allow_patterns=list(SMALL_FILES), local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return False
    return True


def commit(place: Path) -> str:
    """The commit of a folder in the cache: the hub's own word for what stands in it."""
    return place.name


def _refused(name: str, error: Exception) -> str:
    """What the hub's answer means, and the steps to take."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import DisabledRepoError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    page, token, status = f"{constants.ENDPOINT}/{repository(name)}", get_token(), error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return (
            f"the model is there and has no revision {revision(name)!r}; expected a commit (all 40 digits), tag or branch of {page}/commits/main, "
            f"or {repository(name)} for the newest commit"
        )
    if isinstance(error, DisabledRepoError):
        return f"the hub has disabled this model; see {page}"
    if isinstance(error, GatedRepoError):
        if token:
            return (
                f"the model is gated, and the account of your token may not read it. Open {page} with that account, accept the conditions, wait "
                "until access is granted; a fine-grained token also needs 'Read access to contents of all public gated repos you can access'"
            )
        return f"the model is gated and there is no token here. {_steps(page)}"
    if isinstance(error, RepositoryNotFoundError):
        hint = "check the name (owner/name, as on its page)"
        private = "it may also be private and not open to the account of your token" if token else f"if it is private: {_steps(page)}"
        return f"the hub knows no such model, and there is no folder of this name; {hint}; {private}"
    if status in (401, 403):
        return (
            f"the hub refuses {'the token' if token else 'access'} ({status}); make a new one at {constants.ENDPOINT}/settings/tokens, then `hf auth login`, "
            "and see that HF_TOKEN does not hold an old one"
        )
    return f"the hub answers {status}; try again later, or set base_model to a local folder that holds the model"


def _steps(page: str) -> str:
    endpoint = page.rsplit("/", 2)[0]
    return (
        f"1. Sign in and accept the model's conditions on {page} 2. make a token with read access at {endpoint}/settings/tokens "
        "3. `hf auth login`, or set the environment variable HF_TOKEN 4. give the same command again"
    )


def _out_of_reach(name: str, error: Exception) -> str:
    from huggingface_hub import constants

    here = f"models/{repository(name).rpartition('/')[2]}"
    exactly = f" --revision {revision(name)}" if revision(name) else ""
    if constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set and the cache does not hold the whole model; unset it"
    else:
        reason = error.__cause__ or error
        why = f"the hub ({constants.ENDPOINT}) cannot be reached ({type(reason).__name__}) and the cache does not hold the whole model; try again online"
    return (
        f"there is no folder of this name, so it is taken as a hub id; {why}, or fetch it where there is a network (hf download {repository(name)}{exactly} --exclude 'consolidated*' --local-dir {here}), "
        f"copy the folder here and set base_model: {here}"
    )
