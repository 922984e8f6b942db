"""Programs: flags -> configuration -> library -> files. Nothing imports them."""
