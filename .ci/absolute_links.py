"""Make the links of README.md work on a package index: `python .ci/absolute_links.py OWNER/NAME`.

A release runs this before it builds. It also puts the repository in the place of
`YOUR-NAME/hf-rnn`.
"""

import re
import sys
from pathlib import Path

repository = sys.argv[1]
FILES, PICTURES = (
    f"https://github.com/{repository}/blob/main/",
    f"https://raw.githubusercontent.com/{repository}/main/",
)
for name in ("README.md", "pyproject.toml"):
    text = Path(name).read_text(encoding="utf-8").replace("YOUR-NAME/hf-rnn", repository)
    if name == "README.md":
        text = re.sub(r"(!\[[^\]]*\]\()(?!\w+:)", rf"\1{PICTURES}", text)
        text = re.sub(r"(\]\()(?!\w+:|#)", rf"\1{FILES}", text)
    Path(name).write_text(text, encoding="utf-8")
