"""Files and directories over a stream pipe: `warpgate send` and `warpgate receive`, without the command line."""
