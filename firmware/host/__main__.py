"""`python -m firmware.host`: the same as `mst-host`."""
import sys

from firmware.host.cli import main

sys.exit(main())
