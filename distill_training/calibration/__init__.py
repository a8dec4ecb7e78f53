"""Stage 5: measures a student on validation frames and scales its sigma and covariance."""
