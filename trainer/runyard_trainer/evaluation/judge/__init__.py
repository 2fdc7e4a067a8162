"""Have a judge model compare the answers of the model before training with those of the exported model.

    prepare   prompts ─> frozen with their tokens; the judge's server is asked once
    attempt   answers before the first step ─> ... ─> answers of the exported model
              ─> each pair in both orders to the judge, while rank 0 uploads the model ─> wins, ties, losses

Nothing here knows of torch: the model writes its answers in `task_answers`.
"""
