"""The Runyard operator: watches TrainingRun resources and keeps each one moving towards a trained model."""
