"""What several stages use: folders of arrays, file hashes, robust weights, process ranks."""
