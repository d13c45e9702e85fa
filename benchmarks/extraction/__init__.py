"""What region extraction can do: its speed, memory, kills, hostile files and search."""
