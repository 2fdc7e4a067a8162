"""`python -m runyard`: as `runyard`, but `operator` runs in an image without the command line's packages."""

import sys

if sys.argv[1:] == ["operator"]:
    from runyard.main import run

    run()
else:
    from runyard.cli.main import app

    app()
